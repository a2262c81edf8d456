"""The first schema: procrastinate's queue, then our tables."""

from pathlib import Path

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0001"
down_revision = None


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute(SchemaManager.get_schema())
    cursor.execute((Path(__file__).parents[1] / "sql" / "0001_initial.sql").read_text())
