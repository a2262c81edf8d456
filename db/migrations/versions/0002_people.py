"""Accounts, service tokens, rate limits, and the audit log."""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parents[1] / "sql" / "0002_people.sql").read_text())
