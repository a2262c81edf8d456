"""What a streamed answer has said so far: text is passed on at once, the rest is handed over whole at its end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk

if TYPE_CHECKING:
    from dashscope.v2.types.common import Usage
    from dashscope.v2.types.completions import ChatCompletionChunk
    from dashscope.v2.types.messages import ToolCall


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Reply:
    """Collects the frames of one answer."""

    model_name: str
    finish_reason: str = ""
    request_id: str | None = None
    _reasoning: str = ""
    _usage: UsageMetadata | None = None
    _calls: list[_Call] = field(default_factory=list[_Call])
    _slots: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, frame: "ChatCompletionChunk") -> str:
        """Take in one frame and return the answer's text in it."""
        self.request_id = frame.request_id or self.request_id
        if frame.usage is not None:
            self._usage = _usage_metadata(frame.usage)
        if not frame.choices:
            return ""
        choice = frame.choices[0]
        if choice.finish_reason and choice.finish_reason != "null":
            self.finish_reason = choice.finish_reason
        self._reasoning += choice.delta.reasoning_content or ""
        for position, fragment in enumerate(choice.delta.tool_calls or []):
            self._merge(fragment, position if fragment.index is None else fragment.index)
        return choice.delta.content or ""

    def _merge(self, fragment: "ToolCall", index: int) -> None:
        known = self._slots.get(index)
        # Some models send parallel calls all under index 0: a new id is a new call.
        if known is None or (fragment.id and self._calls[known].id not in ("", fragment.id)):
            known = self._slots[index] = len(self._calls)
            self._calls.append(_Call())
        call = self._calls[known]
        call.id = call.id or fragment.id or ""
        call.name = call.name or fragment.function.name or ""
        call.arguments += fragment.function.arguments

    def last_chunk(self) -> ChatGenerationChunk:
        """Return everything but the text: tool calls, reasoning, usage, and why the answer ended."""
        extra = {"reasoning_content": self._reasoning} if self._reasoning else {}
        metadata = {"finish_reason": self.finish_reason, "model_name": self.model_name, "request_id": self.request_id}
        message = AIMessageChunk(
            content="",
            additional_kwargs=extra,
            response_metadata=metadata,
            tool_call_chunks=[_tool_call_chunk(call, index) for index, call in enumerate(self._calls)],
            usage_metadata=self._usage,
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)


def _tool_call_chunk(call: _Call, index: int) -> ToolCallChunk:
    arguments = call.arguments.strip() or "{}"
    if not _is_object(arguments):
        # LangChain completes cut-off JSON by guessing, and a guessed argument must not run: as a JSON string
        # it can only become an invalid tool call.
        arguments = json.dumps(call.arguments)
    return ToolCallChunk(
        name=call.name, args=arguments, id=call.id or f"call_{uuid4().hex}", index=index, type="tool_call_chunk"
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _usage_metadata(usage: "Usage") -> UsageMetadata:
    extra = usage.model_extra or {}
    prompt = {**_details(extra, "input_tokens_details"), **_details(extra, "prompt_tokens_details")}
    output = {**_details(extra, "output_tokens_details"), **_details(extra, "completion_tokens_details")}
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens or usage.input_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(
            cache_read=_count(prompt.get("cached_tokens", extra.get("cached_tokens"))),
            cache_creation=_count(prompt.get("cache_creation_input_tokens")),
        ),
        output_token_details=OutputTokenDetails(reasoning=_count(output.get("reasoning_tokens"))),
    )


def _details(extra: Mapping[str, Any], name: str) -> dict[str, Any]:
    details = extra.get(name)
    return cast("dict[str, Any]", details) if isinstance(details, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
