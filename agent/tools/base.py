"""The nouns of tools: what is known of one, what a call of it gives, and what can run it."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID, uuid5

import rfc8785

from agent.clock import Clock
from agent.questions.types import Answer
from agent.tools.attachments import Attachment
from agent.tools.tables import Table

TOOL_NAMESPACE = UUID("6f5c1b57-6a3c-5b2e-9a43-0d3a7f1e2b11")
RESULT_LIMIT = 24_000
"""Characters of a result that reach the model; about 6,000 tokens."""

PREVIEW_S = 10.0
"""How long a preview may take: people wait with their decision, but not for long."""
PREVIEW_LIMIT = 3_000
"""Characters of a preview that are kept."""

UNSANDBOXED = "unsandboxed"
"""The annotation that says what a sandbox on this machine can't protect."""


class Source(StrEnum):
    """Where a tool comes from."""

    CUSTOM = "custom"
    MCP = "mcp"
    DECLARED = "declared"
    DEMO = "demo"


class Outcome(StrEnum):
    """What is known of a call's effect once it has returned."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "outcome_unknown"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What is known of a tool without running it.

    `name` is what the model and people see: unique in the catalogue, 1 to 64 of `[A-Za-z0-9_-]`.
    `original_name` is the name at its source. `read_only` and `idempotent` are the operator's word, never a
    server's: a server's own `annotations` are shown and not trusted.
    """

    tool_id: UUID
    name: str
    original_name: str
    description: str
    source: Source
    server: str | None
    input_schema: dict[str, Any]
    schema_hash: str
    annotations: dict[str, Any] = field(default_factory=dict[str, Any])
    read_only: bool = False
    idempotent: bool = False
    timeout_s: float = 60.0
    output_schema: dict[str, Any] | None = None
    """Part of what is pinned; answers are never checked against it."""
    redact: tuple[str, ...] = ()
    """Regular expressions of what must not be read in its results."""
    credentials: str | None = None
    """What kind of its server's own credentials a call uses; told in the audit log."""
    previews: bool = False
    """It can say what a call would do: it is a Previewing."""

    @property
    def repeatable(self) -> bool:
        """Whether a call whose outcome is unknown may simply run again."""
        return self.read_only or self.idempotent

    @property
    def unsandboxed(self) -> str | None:
        """What of a whole sandbox it runs without, as words; None where it has one, or runs elsewhere."""
        return self.annotations.get(UNSANDBOXED)


class Host(Protocol):
    """What a running call may ask of people, and tell them."""

    async def ask(self, message: str, schema: Mapping[str, Any]) -> Answer:
        """Ask the requester to fill in a flat form, and wait for the answer; never raises for a refusal."""
        ...

    def tell(self, progress: float, total: float | None, message: str | None) -> None:
        """Take note of how far the call is; returns at once, and only the latest word is shown."""
        ...

    def note(self, sentence: str) -> None:
        """Have the model and people hear this together with the result."""
        ...


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a tool may know of the call it runs for."""

    session_id: UUID
    tool_call_id: str
    approval_id: UUID | None
    """The idempotency key for tools that accept one."""
    requester_id: UUID
    host: Host | None = None
    """None: nobody can be asked."""
    clock: Clock = field(default_factory=Clock)
    """The call's time, which stands still while people are asked."""

    @property
    def alone(self) -> "CallContext":
        """The context as it may leave this process: ids, and nobody to ask."""
        return replace(self, host=None, clock=Clock())


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave: text for the model, whether its effect is known, and what people are shown beside."""

    text: str
    outcome: Outcome = Outcome.SUCCEEDED
    attachments: tuple[Attachment, ...] = ()
    table: Table | None = None
    for_people: bool = False
    """The tool means its table and its text for people, also where nobody had to approve the call."""
    whole: str | None = None
    """The text as people may read it, where the model's is cut."""

    def mapped(self, change: Callable[[str], str]) -> "ToolResult":
        """Return the result with all that can be read in it changed: text, cells, names, and files that are text."""
        return replace(
            self,
            text=change(self.text),
            attachments=tuple(file.mapped(change) for file in self.attachments),
            table=self.table.mapped(change) if self.table else None,
        )


class Tool(Protocol):
    """Something the agent may call. `run` may raise: whoever calls it turns exceptions into a failed result."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult: ...


class Previewing(Protocol):
    """A tool that can say what a call would do. It runs before anybody has approved the call, so it changes nothing."""

    async def preview(self, args: Mapping[str, Any], context: CallContext) -> ToolResult | None:
        """Return what the call would do, or None where that can't be said of these arguments; it may raise."""
        ...


class ToolSource(Protocol):
    """A provider of tools whose set may change while it runs."""

    def tools(self) -> list[Tool]:
        """Return the tools that can be called now."""
        ...

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by server or file name, each as one sentence."""
        ...

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Keep the source alive until cancelled; await `changed()` once after each change of `tools()`."""
        ...

    async def ready(self) -> None:
        """Return once everything was tried once."""
        ...


def tool_id(source: Source, server: str | None, original_name: str) -> UUID:
    """Return the stable id: UUIDv5 of source, server and original name."""
    return uuid5(TOOL_NAMESPACE, "\x1f".join((source.value, server or "", original_name)))


def schema_hash(name: str, description: str, input_schema: Mapping[str, Any]) -> str:
    """Return the hash that an approval is bound to: SHA-256 over name, description and schema."""
    return hashlib.sha256(rfc8785.dumps([name, description, dict(input_schema)])).hexdigest()


def capped(text: str, limit: int = RESULT_LIMIT) -> str:
    """Return `text`, or its start and end with a note of how much was cut between them."""
    if len(text) <= limit:
        return text
    head, tail = limit * 3 // 4, limit // 4
    cut = len(text) - head - tail
    return f"{text[:head]}\n[... {cut} of {len(text)} characters cut ...]\n{text[-tail:]}"


def cleaned(text: str) -> str:
    """Return `text` as every store and wire takes it: NUL and lone surrogates become U+FFFD."""
    whole = text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\x00", "\ufffd")
