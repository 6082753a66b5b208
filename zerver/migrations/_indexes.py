"""Indexes of tables that are in use while a migration runs."""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState


class AddIndexBesideWriters(migrations.AddIndex):
    """Builds the index on PostgreSQL without keeping anybody from the table; for migrations with ``atomic = False``.

    May be run again after it was broken off: the unfinished index that PostgreSQL leaves then is dropped first. Unlike
    ``django.contrib.postgres``'s ``AddIndexConcurrently`` it works on SQLite too, which has one writer at a time anyway.
    """

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
            how = {"concurrently": True} if _is_postgres(schema_editor) else {}
            schema_editor.add_index(model, self.index, **how)

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
        _drop(schema_editor, self.index.name)


class AddUniqueIndexBesideWriters(migrations.AddConstraint):
    """The same for a unique constraint that is an index alone, as those with expressions or conditions are."""

    constraint: models.UniqueConstraint

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            _drop(schema_editor, self.constraint.name)
            statement = str(self.constraint.create_sql(model, schema_editor))
            if _is_postgres(schema_editor):
                statement = statement.replace("CREATE UNIQUE INDEX", "CREATE UNIQUE INDEX CONCURRENTLY", 1)
            schema_editor.execute(statement, params=None)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            _drop(schema_editor, self.constraint.name)


def _drop(schema_editor: BaseDatabaseSchemaEditor, name: str) -> None:
    concurrently = "CONCURRENTLY " if _is_postgres(schema_editor) else ""
    schema_editor.execute(f"DROP INDEX {concurrently}IF EXISTS {schema_editor.quote_name(name)}")


def _is_postgres(schema_editor: BaseDatabaseSchemaEditor) -> bool:
    return schema_editor.connection.vendor == "postgresql"
