"""Indexes of tables that are in use while a migration runs."""

from abc import ABC, abstractmethod

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState


class _BesideWriters(Operation, ABC):
    """Builds an index on PostgreSQL without keeping anybody from the table; for migrations with ``atomic = False``.

    May be run again after it was broken off: the unfinished index that PostgreSQL leaves then is dropped first. Unlike
    ``django.contrib.postgres``'s ``AddIndexConcurrently`` it works on SQLite too, which has one writer at a time anyway.
    """

    model_name: str

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            self._drop(schema_editor)
            self._build(schema_editor, model)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            self._drop(schema_editor)

    def _drop(self, schema_editor: BaseDatabaseSchemaEditor) -> None:
        concurrently = "CONCURRENTLY " if _is_postgres(schema_editor) else ""
        name = schema_editor.quote_name(self._index_name)
        schema_editor.execute(f"DROP INDEX {concurrently}IF EXISTS {name}")

    @property
    @abstractmethod
    def _index_name(self) -> str: ...

    @abstractmethod
    def _build(self, schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> None: ...


class AddIndexBesideWriters(_BesideWriters, migrations.AddIndex):
    """An index of a model's Meta, built beside writers."""

    @property
    def _index_name(self) -> str:
        return self.index.name

    def _build(self, schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> None:
        how = {"concurrently": True} if _is_postgres(schema_editor) else {}
        schema_editor.add_index(model, self.index, **how)


class AddUniqueIndexBesideWriters(_BesideWriters, migrations.AddConstraint):
    """A unique constraint that is an index alone, as those with expressions or conditions are; built beside writers."""

    constraint: models.UniqueConstraint

    @property
    def _index_name(self) -> str:
        return self.constraint.name

    def _build(self, schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> None:
        statement = str(self.constraint.create_sql(model, schema_editor))
        if _is_postgres(schema_editor):
            statement = statement.replace("CREATE UNIQUE INDEX", "CREATE UNIQUE INDEX CONCURRENTLY", 1)
        schema_editor.execute(statement, params=None)


def _is_postgres(schema_editor: BaseDatabaseSchemaEditor) -> bool:
    return schema_editor.connection.vendor == "postgresql"
