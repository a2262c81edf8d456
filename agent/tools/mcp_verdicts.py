"""What a call that went wrong on its way means: pure decisions over what the transport saw."""

from dataclasses import dataclass
from enum import Enum, auto

import mcp_types as types
from mcp import MCPError

from agent.sandbox.policy import SandboxUnavailable
from agent.tools.base import Outcome, ToolResult, ToolSpec
from agent.tools.mcp_config import McpServerConfig
from agent.tools.mcp_http import Attempt

_STAND_IN = "Server returned an error response"  # the SDK's words for an HTTP error without a JSON-RPC body
_GONE = ("Session terminated", "Session not found")


class Then(Enum):
    """What to do with the connection afterwards."""

    KEEP = auto()
    CHECK = auto()
    DROP = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a call. Without a result it surely never ran, and may be sent once more."""

    then: Then
    reason: str
    result: ToolResult | None = None


def verdict(config: McpServerConfig, spec: ToolSpec, attempt: Attempt, error: Exception) -> Verdict:
    """Return what `error` says of the call: never ran, failed, or nobody knows."""
    if not attempt.sent:
        return Verdict(Then.DROP, attempt.error or "the connection was closed")
    if not isinstance(error, MCPError):
        return Verdict(Then.DROP, "broke the connection", unknown(config, spec, "the connection broke"))
    stand_in = error.message == _STAND_IN
    if error.message in _GONE or (stand_in and attempt.status in (400, 404)):
        return Verdict(Then.DROP, "forgot the session")
    said = config.masked(attempt.error if stand_in and attempt.error else error.message)[:300]
    if error.code == types.CONNECTION_CLOSED:
        then = Then.DROP if config.command is not None else Then.CHECK
        return Verdict(then, "closed the connection", unknown(config, spec, said))
    if stand_in and (attempt.status or 500) >= 500:
        return Verdict(Then.CHECK, said, unknown(config, spec, said))
    if stand_in:
        return Verdict(Then.KEEP, said, failed(f"`{spec.name}` was not run: {config.name} refused it ({said})."))
    if error.code == types.PARSE_ERROR:
        return Verdict(Then.KEEP, said, unknown(config, spec, said))
    return Verdict(Then.KEEP, said, failed(f"`{spec.name}` failed: {config.name} answered: {said}"))


def failed(text: str) -> ToolResult:
    return ToolResult(" ".join(text.split()), Outcome.FAILED)


def unknown(config: McpServerConfig, spec: ToolSpec, why: str) -> ToolResult:
    """Return the result of a call that was sent and whose answer never came, or came unreadable."""
    if spec.repeatable:
        return failed(f"`{spec.name}` gave no result: {why}. It may be run again.")
    text = f"`{spec.name}` was sent to {config.name}, but {why}: whether it took effect is not known."
    return ToolResult(f"{text} Look before it is run again.", Outcome.UNKNOWN)


def described(config: McpServerConfig, error: BaseException) -> str:
    """Return why a connection could not be made or kept, as it reads after 'the server'."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case ConnectionLost():
            said = str(error)
        case SandboxUnavailable():
            said = f"can't be started: {error}"
        case FileNotFoundError():
            said = f"can't be started: there is no program {config.command!r}"
        case OSError() if config.command is not None:
            said = f"can't be started: {error.strerror or type(error).__name__}"
        case MCPError():
            said = f"answered: {error.message[:200]}"
        case _:
            said = f"failed: {type(error).__name__}"
    return config.masked(said)


class ConnectionLost(Exception):
    """The connection is over; the message says why, after 'the server'."""
