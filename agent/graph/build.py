"""The edges: model -> one Send per tool call -> model, until there are no calls."""

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from agent.graph.nodes import Nodes
from agent.graph.state import TurnState
from agent.run import Run


def build(nodes: Nodes) -> Any:
    """Return the compiled graph, without a checkpointer: each run brings its own."""
    graph = StateGraph(TurnState, context_schema=Run)
    graph.add_node("model", nodes.model)
    graph.add_node("tool_call", nodes.tool_call)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", _calls, ["tool_call", END])
    graph.add_edge("tool_call", "model")
    return graph.compile()


def _calls(state: TurnState) -> list[Send] | str:
    last = state["messages"][-1]
    if not isinstance(last, AIMessage) or not last.tool_calls:
        return END
    return [Send("tool_call", {"call": call}) for call in last.tool_calls]
