"""MCP servers registered over REST, the pins of their tools, and what admins say of tools."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parents[1] / "sql" / "0003_tools.sql").read_text())
