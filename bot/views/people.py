"""How our own mrkdwn names people and times."""

from datetime import UTC, datetime

from agent.types import Person
from bot import mrkdwn


def person(who: Person) -> str:
    """Return how mrkdwn names somebody."""
    return f"<@{who.chat_user}>" if who.chat_user else f"*{mrkdwn.escape(who.username)}*"


def moment(when: datetime) -> str:
    """Return a time that each reader sees in their own zone."""
    stamp, utc = int(when.timestamp()), when.astimezone(UTC)
    return f"<!date^{stamp}^{{date_short_pretty}} {{time}}|{utc:%Y-%m-%d %H:%M} UTC>"
