"""The life of an approval: reminders, escalation, other approvers, and what people say of an unknown outcome."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parents[1] / "sql" / "0008_approvals.sql").read_text())
