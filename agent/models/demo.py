"""The demo model: rules that can plan the demo tools, for trying the product without a key."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from typing_extensions import override

from agent.models.wire import OfferedTool, content_text, newest_human, tool_names, wire_tools

FOOTER = "_Demo model: rules, not AI. Set TONGYI_API_KEY for a real one._"
HELP = """\
I can show you how this works with three tools. Try:
- `status of web`: reads, so it runs at once
- `restart web because it leaks memory`: changes something, so it asks for an approval first
- `deploy web`: asks for an approval, then fails"""
DEFAULT_SERVICE = "web"
_PIECES = 4


@dataclass(frozen=True, slots=True)
class _Rule:
    words: re.Pattern[str]
    tool: str


_RULES = (
    _Rule(re.compile(r"\b(?:deploy|break|fail|rotate(?:\s+logs)?)\b", re.IGNORECASE), "rotate_logs"),
    _Rule(re.compile(r"\b(?:restart|reboot)\b", re.IGNORECASE), "restart_service"),
    _Rule(re.compile(r"\b(?:status|uptime|health)\b", re.IGNORECASE), "service_status"),
)
_NOT_SERVICES = r"(?:(?:of|for|on|the|service|please|now|it|everything|report|check|because|since)\b)"
_SERVICE = rf"(?!{_NOT_SERVICES})[\w.-]*\w"
_SERVICES = re.compile(
    rf"^(?:\s+{_NOT_SERVICES})*\s+({_SERVICE})"
    rf"((?:(?:\s*,\s*|\s+and\s+){_SERVICE})+(?=\s*(?:$|[,.;!?]|because\b|since\b|please\b)))?",
    re.IGNORECASE,
)
_REASON = re.compile(r"\b(?:because|since)\s+(.+)", re.IGNORECASE | re.DOTALL)


class DemoModel(BaseChatModel):
    """Rules, not AI; every answer says so."""

    @property
    @override
    def _llm_type(self) -> str:
        return "demo"

    @override
    def bind_tools(
        self, tools: Sequence[OfferedTool], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the rules."""
        return self.bind(tools=wire_tools(tools), **kwargs)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        answer = plan(messages, tool_names(kwargs.get("tools") or []))
        for piece in _pieces(content_text(answer)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        last = AIMessageChunk(content="", tool_calls=answer.tool_calls, chunk_position="last")
        yield ChatGenerationChunk(message=last)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = plan(messages, tool_names(kwargs.get("tools") or []))
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def aclose(self) -> None:
        """Nothing is open."""


def plan(messages: Sequence[BaseMessage], offered: Sequence[str]) -> AIMessage:
    """Return the calls that the newest message asks for, or the answer once there are results."""
    newest = newest_human(messages)
    results = [message for message in messages[newest + 1 :] if isinstance(message, ToolMessage)]
    if results:
        return _answer("\n".join(_told(result, messages) for result in results))
    text = content_text(messages[newest]) if newest >= 0 else ""
    for rule in _RULES:
        if found := rule.words.search(text):
            if rule.tool not in offered:
                return _answer(f"I would call `{rule.tool}`, but that tool isn't offered to me here.")
            return _calls(rule.tool, _services(text[found.end() :]), text)
    return _answer(HELP)


def _calls(tool: str, services: Sequence[str], text: str) -> AIMessage:
    calls: list[ToolCall] = []
    for service in services:
        args = {"service": service}
        if tool == "restart_service":
            args["reason"] = _reason(text)
        calls.append(ToolCall(name=tool, args=args, id=f"call_{uuid4().hex}", type="tool_call"))
    return AIMessage(content="", tool_calls=calls)


def _services(tail: str) -> list[str]:
    found = _SERVICES.match(tail)
    if found is None:
        return [DEFAULT_SERVICE]
    more = re.split(r"\s*,\s*|\s+and\s+", found[2]) if found[2] else []
    return list(dict.fromkeys([found[1], *(name for name in more if name)]))


def _reason(text: str) -> str:
    found = _REASON.search(text)
    return (found[1] if found else f"Asked for in the conversation: {text}").strip()[:200]


def _told(result: ToolMessage, messages: Sequence[BaseMessage]) -> str:
    calls = (call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls)
    name = next((call["name"] for call in calls if call["id"] == result.tool_call_id), result.name or "the tool")
    said = content_text(result).strip() or "nothing"
    if "reject" in said.lower():
        return f"`{name}` was rejected and did not run: {said}"
    if result.status == "error":
        return f"`{name}` failed: {said}"
    return f"`{name}` answered: {said}"


def _answer(text: str) -> AIMessage:
    return AIMessage(content=f"{text}\n\n{FOOTER}")


def _pieces(text: str) -> list[str]:
    size = max(1, -(-len(text) // _PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]
