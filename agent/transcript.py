"""The transcript: what was said, complete and append-only; and the window of it that the model sees."""

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from agent.types import Message
from db import queries
from db.database import Tx

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

sql = queries.load("transcript")

_WINDOW_ROWS = 400


def step_id(turn_id: UUID, *parts: object) -> UUID:
    """Return the message id of one step of a turn: the same each time the step runs."""
    return uuid5(turn_id, "/".join(str(part) for part in parts))


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has: four ASCII characters, or one other, to a token."""
    other = sum(1 for character in text if ord(character) > 127)
    return (len(text) - other) // 4 + other + 4


def clean(text: str) -> str:
    """Return text that PostgreSQL can store: no NUL, no lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


async def append(
    tx: Tx,
    session_id: UUID,
    *,
    message_id: UUID,
    turn_id: UUID,
    role: str,
    content: str,
    tool_calls: list[dict[str, Any]] | None = None,
    tool_call_id: str | None = None,
    tool_name: str | None = None,
) -> None:
    """Append one message; a step that runs again replaces what it wrote before."""
    tokens = estimate_tokens(content) + sum(estimate_tokens(str(call)) for call in tool_calls or [])
    await tx.execute(
        sql.append,
        message_id,
        session_id,
        turn_id,
        role,
        clean(content),
        tool_calls or None,
        tool_call_id,
        tool_name,
        tokens,
    )


async def read(tx: Tx, session_id: UUID, *, after: int, limit: int) -> list[tuple[int, Message]]:
    """Return messages with their positions, oldest first."""
    rows = await tx.fetch(sql.list, session_id, after, limit)
    return [
        (
            row["position"],
            Message(
                message_id=row["message_id"],
                turn_id=row["turn_id"],
                role=row["role"],
                content=row["content"],
                created_at=row["created_at"],
                tool_calls=row["tool_calls"] or [],
                tool_call_id=row["tool_call_id"],
            ),
        )
        for row in rows
    ]


async def unanswered(tx: Tx, session_id: UUID, turn_id: UUID) -> list[dict[str, Any]]:
    """Return the turn's tool calls that have no result."""
    rows = await tx.fetch(sql.of_turn, session_id, turn_id)
    answered = {row["tool_call_id"] for row in rows}
    return [call for row in rows for call in row["tool_calls"] or [] if call["id"] not in answered]


async def window(tx: Tx, session_id: UUID, *, before: UUID, tokens: int) -> "list[BaseMessage]":
    """Return the newest messages before a turn's own that fit the budget, oldest first, from a user's message on."""
    taken: list[Any] = []
    for row in await tx.fetch(sql.window, session_id, before, _WINDOW_ROWS):
        tokens -= row["tokens"]
        if tokens < 0:
            break
        taken.append(row)
    taken.reverse()
    start = next((index for index, row in enumerate(taken) if row["role"] == "user"), len(taken))
    return [_message(row) for row in taken[start:]]


def _message(row: Any) -> "BaseMessage":
    # Only who runs turns pays for LangChain's memory.
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

    if row["role"] == "user":
        return HumanMessage(row["content"])
    if row["role"] == "tool":
        return ToolMessage(row["content"], tool_call_id=row["tool_call_id"], name=row["tool_name"])
    return AIMessage(row["content"], tool_calls=row["tool_calls"] or [])
