from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("gateway", "0002_cached_answers"),
    ]

    operations = [
        migrations.AddField(
            model_name="gatewayprocess",
            name="key_ids",
            field=models.CharField(blank=True, db_default="", default="", max_length=1000),
        ),
    ]
