"""A Django project as users have them: an app with workers and a table, nothing tuned."""
