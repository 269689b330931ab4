"""Apart from the column, whose making locks the table."""

from datetime import UTC

from django.db import migrations
from django.db.models import Count, F
from django.db.models.functions import TruncDate

NAMES = ('key_id', 'team_id', 'end_user', 'alias', 'provider')


def count(apps, schema_editor):
    """Of the usage rows that are still there: the totals of days that were pruned keep 0."""
    failed = apps.get_model('ledger', 'UsageRecord').objects.exclude(outcome__in=('ok', 'client_cancelled'))
    rollups = apps.get_model('ledger', 'DailyRollup').objects
    days = failed.annotate(day=TruncDate('started_at', tzinfo=UTC)).order_by()
    found = days.values('day', *NAMES, upstream=F('upstream_model')).annotate(failures=Count('id'))
    for row in list(found):
        row['model'] = row.pop('upstream')
        rollups.filter(**{name: row[name] for name in ('day', *NAMES, 'model')}).update(errors=row['failures'])


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0006_errors'),
    ]

    operations = [
        migrations.RunPython(count, migrations.RunPython.noop),
    ]
