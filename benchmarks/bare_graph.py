"""The bare graph that the reference, the small server and Aegra run. Imports nothing of ours."""

from typing import Annotated, Any, TypedDict

from langchain_core.messages import AnyMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from benchmarks.instant import InstantModel


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def build(saver: Any = None) -> Any:
    """Return the graph: a model node, and a tool node that asks before it runs; `saver` where the caller brings one."""
    chat_model = InstantModel()

    async def model(state: State) -> dict[str, Any]:
        return {"messages": [await chat_model.ainvoke(state["messages"])]}

    async def tool(state: State) -> dict[str, Any]:
        call = state["messages"][-1].tool_calls[0]
        approved = interrupt({"tool": call["name"], "args": call["args"]})
        text = f"restarted {call['args']['service']}" if approved else "rejected"
        return {"messages": [ToolMessage(text, tool_call_id=call["id"])]}

    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tool" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tool", "model")
    return graph.compile(checkpointer=saver)
