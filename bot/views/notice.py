"""The short things the agent says of itself."""

from bot import mrkdwn
from bot.views.blocks import Rendered, words

STOPPED = "Stopped."
WAITS = "I'll get to this once the pending approval is decided."


def notice(text: str) -> Rendered:
    """Return one sentence as a message; it may hold words of others."""
    return Rendered(mrkdwn.escape(mrkdwn.cut(text, 300)), (words(text),))
