"""Counts that outlive the rows of the worker processes that made them, and how long events are handled.

The new column is nullable: processes of the version before go on storing their rows, and nothing is known of how long
theirs took. Where such a process forgets a row, its counts are gone as before: what is exported falls once.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("zerver", "0005_paused_queues")]

    operations = [
        migrations.CreateModel(
            name="QueueTotals",
            fields=[
                ("queue", models.CharField(max_length=63, primary_key=True, serialize=False)),
                ("consumed", models.BigIntegerField(default=0)),
                ("retried", models.BigIntegerField(default=0)),
                ("failed", models.BigIntegerField(default=0)),
                ("discarded", models.BigIntegerField(default=0)),
                ("latencies", models.TextField(default="{}")),
                ("consume_times", models.TextField(default="{}")),
            ],
            options={"db_table": "zerver_queue_totals"},
        ),
        migrations.AddField(
            model_name="workerprocess",
            name="consume_times",
            field=models.TextField(blank=True, null=True),
        ),
    ]
