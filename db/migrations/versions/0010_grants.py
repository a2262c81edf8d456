"""Grants: approvals that spare later ones for a while."""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parents[1] / "sql" / "0010_grants.sql").read_text())
