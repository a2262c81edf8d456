"""Repairs a conversation so that the model service accepts it: a crash or a cancel must not brick a thread."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage, message_chunk_to_message

NO_RESULT = "No result was recorded for this call."
NOT_JSON = "This call did not run: its arguments were not a JSON object."
NO_OUTPUT = "(no output)"
UNNAMED = "unnamed_tool"


@dataclass(slots=True)
class _Entry:
    """A message, and the results of the calls it makes."""

    message: BaseMessage
    results: dict[str, ToolMessage | None] = field(default_factory=dict[str, ToolMessage | None])
    unreadable: set[str] = field(default_factory=set[str])

    def messages(self) -> Iterable[BaseMessage]:
        yield self.message
        for call_id, result in self.results.items():
            if result is not None:
                yield result
            else:
                why = NOT_JSON if call_id in self.unreadable else NO_RESULT
                yield ToolMessage(why, tool_call_id=call_id, status="error")


def repair(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the conversation with exactly one result right behind each tool call, and nothing empty or unsendable.

    Results that answer no call are dropped, as are second ones; missing ones are said to be missing.
    """
    entries: list[_Entry] = []
    for position, message in enumerate(messages):
        clean = _clean(message)
        if isinstance(clean, ToolMessage):
            _attach(clean, entries)
        elif isinstance(clean, AIMessage):
            entry = _with_valid_calls(clean, position)
            if entry.results or not _is_empty(entry.message):
                entries.append(entry)
        elif not _is_empty(clean):
            entries.append(_Entry(clean))
    return [message for entry in entries for message in entry.messages()]


def _attach(result: ToolMessage, entries: list[_Entry]) -> None:
    for entry in reversed(entries):
        if result.tool_call_id in entry.results:
            # A model may use an id again in a later message: only the newest such call can be the one answered.
            if entry.results[result.tool_call_id] is None:
                entry.results[result.tool_call_id] = _with_output(result)
            return


def _with_output(result: ToolMessage) -> ToolMessage:
    return result.model_copy(update={"content": NO_OUTPUT}) if _is_empty(result) else result


def _with_valid_calls(message: AIMessage, position: int) -> _Entry:
    broken = [
        ToolCall(name=call.get("name") or UNNAMED, args={}, id=call.get("id"), type="tool_call")
        for call in message.invalid_tool_calls
    ]
    calls: dict[str, ToolCall] = {}
    unreadable: set[str] = set()
    for number, call in enumerate([*message.tool_calls, *broken]):
        call_id = call["id"] or f"call_{position}_{number}"
        if call_id in calls:
            continue
        calls[call_id] = ToolCall(name=call["name"] or UNNAMED, args=call["args"], id=call_id, type="tool_call")
        if number >= len(message.tool_calls):
            unreadable.add(call_id)
    valid = list(calls.values())
    if valid != message.tool_calls or broken:
        message = message.model_copy(update={"tool_calls": valid, "invalid_tool_calls": []})
    return _Entry(message, dict.fromkeys(calls), unreadable)


def _is_empty(message: BaseMessage) -> bool:
    content = cast("str | list[Any]", message.content)
    if isinstance(content, str):
        return not content.strip()
    return all(_is_blank(block) for block in content)


def _is_blank(block: Any) -> bool:
    if isinstance(block, dict):
        typed = cast("dict[str, Any]", block)
        return typed.get("type", "text") == "text" and not str(typed.get("text", "")).strip()
    return not str(block).strip()


def _clean(message: BaseMessage) -> BaseMessage:
    whole = message_chunk_to_message(message)
    update: dict[str, Any] = {"content": _sendable(whole.content)}
    if isinstance(whole, AIMessage):
        update["tool_calls"] = _sendable(whole.tool_calls)
        update["invalid_tool_calls"] = _sendable(whole.invalid_tool_calls)
    elif isinstance(whole, ToolMessage):
        update["tool_call_id"] = _sendable(whole.tool_call_id)
    changed = {name: value for name, value in update.items() if value != getattr(whole, name)}
    return whole.model_copy(update=changed) if changed else whole


def _sendable(value: Any) -> Any:
    """Return the value with surrogates joined to characters where they pair, and replaced where they don't."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, dict):
        return {_sendable(key): _sendable(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_sendable(item) for item in cast("list[Any]", value)]
    return value
