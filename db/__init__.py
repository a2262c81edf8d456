"""Postgres: pools, named queries, migrations, checkpointer, dispatch. Knows no domain type."""
