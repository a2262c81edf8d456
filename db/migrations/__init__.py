"""Forward-only migrations: Alembic keeps the order, plain SQL does the work."""
