"""Activity, counted."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from django.db import connections, models

#: What one activity is counted under.
KEY = ("user", "client", "query")
#: What a row is made of, in the order of the statement below.
COLUMNS = (*KEY, "count", "last_visit")


class UserActivityQuerySet(models.QuerySet["UserActivity"]):
    def add_counts(self, rows: Iterable["UserActivity"]) -> None:
        """Add each row's count to what is stored under its key, and keep the later visit; new keys become new rows.

        One statement, so that concurrent workers lose no count. Rows go in the order of their keys: two workers that
        write the same keys then lock them in the same order, and neither waits for the other in a circle.
        Shape: one row per key; a key that came twice would make PostgreSQL refuse the statement.
        """
        ordered = sorted(rows, key=lambda row: (row.user, row.client, row.query))
        self._for_write = True
        alias = self.db
        limit = connections[alias].features.max_query_params
        step = limit // len(COLUMNS) if limit else max(1, len(ordered))
        for start in range(0, len(ordered), step):
            _upsert(alias, ordered[start : start + step])


class UserActivity(models.Model):
    """How often a user did something through a client, and when last."""

    user = models.CharField(max_length=255)
    #: Through what: a webhook's source, a browser, an app.
    client = models.CharField(max_length=255)
    #: What was done: a webhook's event, a view's name.
    query = models.CharField(max_length=255)
    count = models.BigIntegerField()
    last_visit = models.DateTimeField()

    objects = UserActivityQuerySet.as_manager()

    class Meta:
        db_table = "zerver_user_activity"
        verbose_name_plural = "user activity"
        constraints: ClassVar = [models.UniqueConstraint(fields=KEY, name="zerver_user_activity_once")]
        indexes: ClassVar = [models.Index(fields=["last_visit"], name="zerver_user_activity_age")]

    def __str__(self) -> str:
        return f"{self.user} {self.client} {self.query}: {self.count}"


def _upsert(alias: str, rows: Sequence[UserActivity]) -> None:
    """``bulk_create(update_conflicts=True)`` sets values and cannot add to them, so the statement is written out."""
    connection = connections[alias]
    quote = connection.ops.quote_name
    table, count, last = quote(UserActivity._meta.db_table), quote("count"), quote("last_visit")
    fields = {field.attname: field for field in UserActivity._meta.concrete_fields}
    values: list[Any] = [
        fields[name].get_db_prep_save(getattr(row, name), connection) for row in rows for name in COLUMNS
    ]
    # Names are this model's own, quoted ("user" is a word of SQL); every value is a parameter.
    statement = (
        f"INSERT INTO {table} ({', '.join(map(quote, COLUMNS))}) "  # noqa: S608 (names of ours)
        f"VALUES {', '.join(['(%s, %s, %s, %s, %s)'] * len(rows))} "
        f"ON CONFLICT ({', '.join(map(quote, KEY))}) DO UPDATE SET "
        f"{count} = {table}.{count} + excluded.{count}, "
        # SQLite and PostgreSQL have different names for the larger of two values; CASE has one.
        f"{last} = CASE WHEN excluded.{last} > {table}.{last} THEN excluded.{last} ELSE {table}.{last} END"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
