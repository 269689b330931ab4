"""The column in which PostgreSQL compares questions, where it has pgvector, or may make it; elsewhere nothing.

`manage.py use_pgvector` does the same later, and says what is missing.
"""

from django.db import migrations

from gateway.caching import pgvector


def forward(apps, editor):
    pgvector.prepare()


def backward(apps, editor):
    pgvector.remove()


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0006_keyed_requests'),
    ]

    operations = [
        migrations.RunPython(forward, backward),
    ]
