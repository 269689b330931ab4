from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0005_cache_write'),
    ]

    operations = [
        migrations.AddField(
            model_name='dailyrollup',
            name='errors',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
    ]
