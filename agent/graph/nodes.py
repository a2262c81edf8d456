"""The two nodes. Whatever stands before `interrupt()` runs again on every resume, and is safe to."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import structlog
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage, ToolCall, ToolCallChunk
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from agent import events, sessions, transcript
from agent.approvals import store
from agent.approvals.types import InvalidArguments
from agent.events import Hub
from agent.graph.deltas import Deltas
from agent.graph.state import CallState, TurnState
from agent.models.history import UNNAMED, repair
from agent.run import Limits, Run
from agent.toolcalls import UNPARSABLE, ToolCalls, Waiting
from agent.tools.base import cleaned
from agent.tools.registry import Registry
from agent.types import EventKind
from db.database import Database

log = structlog.get_logger()
PROMPT = (Path(__file__).parent / "prompts" / "system.md").read_text()


class Nodes:
    """The nodes' bodies, with what they need of the house."""

    def __init__(
        self,
        database: Database,
        chat_model: BaseChatModel,
        registry: Registry,
        calls: ToolCalls,
        hub: Hub,
        limits: Limits,
    ) -> None:
        self._database = database
        self._chat_model = chat_model
        self._registry = registry
        self._calls = calls
        self._hub = hub
        self._limits = limits

    async def model(self, state: TurnState, runtime: Runtime[Run]) -> dict[str, list[BaseMessage]]:
        """Ask the model once; its answer, or its tool calls under ids of our own."""
        run = runtime.context
        said = [message for message in state["messages"] if isinstance(message, AIMessage)]
        if len(said) >= self._limits.model_calls:
            return {"messages": [_stopped(f"the limit of {self._limits.model_calls} model calls in one turn")]}
        prompt = [SystemMessage(PROMPT), *repair([*await self._history(run), *state["messages"]])]
        answer = await self._ask(run, prompt)
        calls = [_call(chunk, run, len(said), index) for index, chunk in enumerate(answer.tool_call_chunks)]
        if sum(len(message.tool_calls) for message in said) + len(calls) > self._limits.tool_calls:
            return {"messages": [_stopped(f"the limit of {self._limits.tool_calls} tool calls in one turn")]}
        message = AIMessage(
            cleaned(answer.text),
            id=str(transcript.step_id(run.turn_id, "model", len(said))),
            tool_calls=calls,
            usage_metadata=answer.usage_metadata,
        )
        if calls:
            await self._record(run, message)
        return {"messages": [message]}

    async def tool_call(self, state: CallState, runtime: Runtime[Run]) -> dict[str, list[BaseMessage]]:
        """Take one call to its result; while people must decide and no sibling is at work, interrupt."""
        run, call = runtime.context, state["call"]
        async with self._hub.watch(run.session_id, EventKind.APPROVAL_CHANGED) as changed:
            while True:
                changed.clear()
                async with run.busy():
                    outcome = await self._calls.step(run, call)
                if not isinstance(outcome, Waiting):
                    return {"messages": [outcome]}
                if run.is_idle:
                    break
                # A sibling is still running: a decision that comes meanwhile is acted on at once.
                await _either(changed.wait(), run.until_idle())
        interrupt({"approval_id": str(outcome.approval_id)})
        raise RuntimeError("A resumed call must find its decision in the approval's row.")

    async def _history(self, run: Run) -> list[BaseMessage]:
        if run.history is None:
            async with self._database.connection() as connection:
                run.history = await transcript.window(
                    connection, run.session_id, before=run.turn_id, tokens=self._limits.window_tokens
                )
        return run.history

    async def _ask(self, run: Run, prompt: list[BaseMessage]) -> AIMessageChunk:
        offered = self._offered()
        model = self._chat_model.bind_tools(offered) if offered else self._chat_model
        whole: AIMessageChunk | None = None
        async with Deltas(self._database, run) as deltas:
            async for chunk in model.astream(prompt):
                if not isinstance(chunk, AIMessageChunk):
                    continue
                whole = chunk if whole is None else whole + chunk
                deltas.add(chunk.text)
        return whole or AIMessageChunk(content="")

    def _offered(self) -> list[dict[str, Any]]:
        """Return the tools as the model is told of them: also those that policy denies, whose refusal says so."""
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.spec.name,
                    "description": tool.spec.description,
                    "parameters": tool.spec.input_schema,
                },
            }
            for tool in self._registry.tools()
        ]

    async def _record(self, run: Run, message: AIMessage) -> None:
        """Write what the model asked for; running again writes the same rows again."""
        async with self._database.transaction() as tx:
            await sessions.fence(tx, run.session_id, run.epoch)
            await transcript.append(
                tx,
                run.session_id,
                message_id=UUID(message.id),
                turn_id=run.turn_id,
                role="assistant",
                content=message.text,
                tool_calls=[dict(call) for call in message.tool_calls],
            )
            for call in message.tool_calls:
                data = {"tool_call_id": call["id"], "tool_name": call["name"], "args": call["args"]}
                await events.append(
                    tx, run.session_id, EventKind.TOOL_CALLED, data, turn_id=run.turn_id, epoch=run.epoch
                )


def _call(asked: ToolCallChunk, run: Run, step: int, index: int) -> ToolCall:
    """Give a call an id of our own: a model may use one twice, and an approval must never be found by another call."""
    call_id = f"call_{uuid5(run.turn_id, f'{step}/{index}').hex}"
    return ToolCall(type="tool_call", name=cleaned(asked["name"] or UNNAMED), args=_exact(asked["args"]), id=call_id)


def _exact(text: str | None) -> dict[str, Any]:
    """Return arguments that mean the same to everyone who reads them: people, the tool, the stores."""
    # Not LangChain's own reading of them, which completes cut-off JSON by guessing.
    try:
        args = json.loads(text or "{}")
        return json.loads(store.canonical(args)) if isinstance(args, dict) else {UNPARSABLE: cleaned(text or "")}
    except (InvalidArguments, ValueError, RecursionError):
        return {UNPARSABLE: cleaned(text or "")}


def _stopped(why: str) -> AIMessage:
    return AIMessage(f"I stopped here: this reached {why}. Ask me to go on if you want me to.")


async def _either(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
