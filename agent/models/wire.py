"""LangChain's messages and tools in the form that DashScope takes; pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

WireChoice = str | dict[str, Any] | None
OfferedTool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
_ROLES = {"system": "system", "developer": "system", "assistant": "assistant"}


def wire_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the messages as DashScope takes them; reasoning is never sent back."""
    return [_wire_message(message) for message in messages]


def _wire_message(message: BaseMessage) -> dict[str, Any]:
    content = content_text(message)
    match message:
        case SystemMessage():
            return {"role": "system", "content": content}
        case ToolMessage():
            return {"role": "tool", "content": content, "tool_call_id": message.tool_call_id}
        case AIMessage() if message.tool_calls:
            calls = [_wire_call(call["id"] or "", call["name"], call["args"]) for call in message.tool_calls]
            return {"role": "assistant", "content": content, "tool_calls": calls}
        case AIMessage():
            return {"role": "assistant", "content": content}
        case ChatMessage():
            return {"role": _ROLES.get(message.role, "user"), "content": content}
        case _:
            return {"role": "user", "content": content}


def _wire_call(call_id: str, name: str, args: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(args, ensure_ascii=False, default=str)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def content_text(message: BaseMessage) -> str:
    """Return the text of a message; what isn't text is named, so that the model knows of it."""
    content = cast("str | list[str | dict[str, Any]]", message.content)
    if isinstance(content, str):
        return content
    return "".join(_block_text(block) for block in content)


def _block_text(block: str | dict[str, Any]) -> str:
    if isinstance(block, str):
        return block
    if "text" in block:
        return str(block["text"])
    return f"[{block.get('type', 'attachment')}]"


def newest_human(messages: Sequence[BaseMessage]) -> int:
    """Return the position of the newest human message, or -1."""
    return max((i for i, message in enumerate(messages) if isinstance(message, HumanMessage)), default=-1)


def wire_tools(tools: Sequence[OfferedTool]) -> list[dict[str, Any]]:
    """Return tools as OpenAI-style functions: ours by name, description and input_schema, or any LangChain form."""
    return [_wire_tool(tool) for tool in tools]


def _wire_tool(tool: OfferedTool) -> dict[str, Any]:
    if isinstance(tool, Mapping) and "input_schema" in tool:
        function = {
            "name": tool["name"],
            "description": tool.get("description", ""),
            "parameters": dict(tool["input_schema"]),
        }
        return {"type": "function", "function": function}
    return convert_to_openai_tool(dict(tool) if isinstance(tool, Mapping) else tool)


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of tools in wire form."""
    return [tool["function"]["name"] for tool in tools]


def wire_tool_choice(
    choice: str | bool | Mapping[str, Any] | None, names: Sequence[str]
) -> str | dict[str, Any] | None:
    """Return the choice in one of the forms that the service knows: auto, none, or one function.

    It has none for "any of them": with one tool that is this tool, otherwise the model chooses.
    """
    if isinstance(choice, Mapping):
        return dict(choice)
    if choice is None or choice is False:
        return None
    if choice is True or choice in ("any", "required"):
        return {"type": "function", "function": {"name": names[0]}} if len(names) == 1 else "auto"
    if choice in ("auto", "none"):
        return choice
    if choice not in names:
        raise ValueError(f"tool_choice names {choice!r}, which isn't one of the tools: {', '.join(names)}.")
    return {"type": "function", "function": {"name": choice}}
