"""Why something was not done, told to the one person who tried."""

from bot import mrkdwn
from bot.views.blocks import Block, Rendered, plain, words

BAD_BUTTON = "This button names no approval: ask the agent again, and use the new card."
BAD_PIN = "This button names no tool: use the newest card about it."
BAD_FORM = "This form does not belong to the call as it stands: close it, and open it again from the card."
COULD_NOT_OPEN = "Slack did not open this in time: press the button again."
TOO_LARGE = "These arguments are too long to be edited in Slack: edit them in the web console or over REST."
RULE_TOO_LARGE = "The rule for these arguments is too long to be read in Slack: remember it over REST."
KNOWN_BY_NOW = "It is known by now how this call ended; the card says how."
TOOL_CHANGED = "The tool was changed since this call was asked for: reject it, and ask the agent again."
CHANGED = "The arguments were changed since you saw them; look at them again."
NO_REASON = "Say why, or press Reject on the card."
BAD_QUESTION = "This button names no question any more: ask the agent again."


def refusal(message: str) -> Rendered:
    """Return the reason as an ephemeral message."""
    return Rendered(mrkdwn.escape(mrkdwn.cut(message, 300)), (words(message),))


def refusal_modal(message: str) -> Block:
    """Return the reason as the modal that replaces the one that was submitted."""
    return {"type": "modal", "title": plain("Not done"), "close": plain("Close"), "blocks": [words(message)]}
