from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("gateway", "0003_known_ids"),
    ]

    operations = [
        migrations.AddField(
            model_name="gatewayprocess",
            name="key_ids",
            field=models.CharField(blank=True, db_default="", default="", max_length=1000),
        ),
    ]
