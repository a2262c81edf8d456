"""The one way in: every command of every door is a method here, and each is one transaction."""

from agent.accounts import Accounts
from agent.answers import Answers
from agent.approval_verbs import ApprovalVerbs
from agent.authentication import Authentication
from agent.changes import Changes
from agent.conversations import Conversations, Submitted, TurnView
from agent.figures import Reporting
from agent.outgoing import Outgoing
from agent.policies import Policies
from agent.records import Records
from agent.remembering import Remembering
from agent.server_logins import ServerLogins
from agent.toolbox import Toolbox, ToolView

__all__ = ["AgentService", "Submitted", "ToolView", "TurnView"]


class AgentService(
    Conversations,
    ApprovalVerbs,
    Remembering,
    Answers,
    Toolbox,
    Policies,
    ServerLogins,
    Changes,
    Accounts,
    Authentication,
    Records,
    Reporting,
    Outgoing,
):
    """What doors call. It never decides by what a door says, only by what is stored.

    The parts share one `House` (see agent.house) and are apart only so that each can be read on its own.
    """
