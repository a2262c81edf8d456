"""What a checkpoint holds: the turn in flight, and nothing of the turns before it."""

from typing import Annotated, TypedDict

from langchain_core.messages import AnyMessage, ToolCall
from langgraph.graph.message import add_messages


class TurnState(TypedDict):
    """The messages of this turn, from the user's on."""

    messages: Annotated[list[AnyMessage], add_messages]


class CallState(TypedDict):
    """The input of one `tool_call` task."""

    call: ToolCall
