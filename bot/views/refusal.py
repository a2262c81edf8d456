"""Why something was not done, told to the one person who tried."""

from bot import mrkdwn
from bot.views.blocks import Block, Rendered, plain, words

BAD_BUTTON = "This button names no approval: ask the agent again, and use the new card."
COULD_NOT_OPEN = "Slack did not open the arguments in time: press the button again."


def refusal(message: str) -> Rendered:
    """Return the reason as an ephemeral message."""
    return Rendered(mrkdwn.escape(mrkdwn.cut(message, 300)), (words(message),))


def refusal_modal(message: str) -> Block:
    """Return the reason as the modal that replaces the one that was submitted."""
    return {"type": "modal", "title": plain("Not approved"), "close": plain("Close"), "blocks": [words(message)]}
