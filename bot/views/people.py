"""How our own mrkdwn names people and times."""

from datetime import UTC, datetime

from agent.approvals.types import Approval
from agent.types import Person
from bot import mrkdwn
from bot.views.blocks import Block, words


def person(who: Person) -> str:
    """Return how mrkdwn names somebody."""
    return f"<@{who.chat_user}>" if who.chat_user else f"*{mrkdwn.escape(who.username)}*"


def moment(when: datetime) -> str:
    """Return a time that each reader sees in their own zone."""
    stamp, utc = int(when.timestamp()), when.astimezone(UTC)
    return f"<!date^{stamp}^{{date_short_pretty}} {{time}}|{utc:%Y-%m-%d %H:%M} UTC>"


def subject(approval: Approval) -> Block:
    """Return the line at the head of a form: which call it is about. Plain text, where nobody can be mentioned."""
    who = approval.requested_by
    return words(f"{approval.tool_name}, asked for by {who.display_name or who.username}")
