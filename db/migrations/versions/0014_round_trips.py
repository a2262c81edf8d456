"""What a turn asks of the database, in fewer round trips."""

from pathlib import Path

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parents[1] / "sql" / "0014_round_trips.sql").read_text())
