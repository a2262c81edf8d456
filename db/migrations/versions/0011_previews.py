"""Previews: what an approval's call would do, as its tool says."""

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parents[1] / "sql" / "0011_previews.sql").read_text())
