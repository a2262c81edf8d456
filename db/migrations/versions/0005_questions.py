"""Questions that running tools ask of people."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parents[1] / "sql" / "0005_questions.sql").read_text())
