"""The product without its doors, on a database of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent.approvals.types import Approval, Decision
from agent.conversations import TurnView
from agent.run import Limits
from agent.types import ChatUser, Principal, Role, TurnStatus
from agent.users import api_key_principal
from opsagent.compose import Core, open_core
from tests.fakes.counting_tools import CountingTools
from tests.fakes.scripted_model import ScriptedModel

ADMIN = api_key_principal()
ALICE = ChatUser("T0TEAM", "U1ALICE")
BOB = ChatUser("T0TEAM", "U2BOB")
CAROL = ChatUser("T0TEAM", "U3CAROL")


@dataclass
class Floor:
    """A running core, and the verbs that tests use on it."""

    core: Core
    tools: CountingTools
    model: Any

    @property
    def service(self) -> Any:
        return self.core.service

    async def session(self, by: Principal = ADMIN) -> UUID:
        return (await self.service.create_session(by=by)).session_id

    async def say(self, session_id: UUID, text: str, *, by: Any = ADMIN, timeout: float = 45) -> TurnView:
        sent = await self.service.submit_message(session_id, text, by=by)
        return await self.service.wait_turn(sent.turn.turn_id, timeout=timeout)

    async def done(self, turn_id: UUID, timeout: float = 45) -> TurnView:
        """Wait until the turn is final."""
        async with asyncio.timeout(timeout):
            while True:
                view = await self.service.wait_turn(turn_id, timeout=timeout)
                if view.turn.status.is_final:
                    return view
                await asyncio.sleep(0.02)

    async def parked(self, turn_id: UUID, pending: int, timeout: float = 45) -> TurnView:
        """Wait until the turn waits for that many people's decisions."""
        async with asyncio.timeout(timeout):
            while True:
                view = await self.service.wait_turn(turn_id, timeout=timeout)
                if view.turn.status is TurnStatus.AWAITING_APPROVAL and len(view.pending_approvals) == pending:
                    return view
                await asyncio.sleep(0.02)

    async def decide(self, approval: Approval, decision: Decision = Decision.APPROVE, *, by: Any = ADMIN, **kw: Any):
        return await self.service.decide_approval(approval.approval_id, decision, by=by, **kw)

    async def until(self, condition: Callable[[], bool], timeout: float = 45) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.02)

    async def user(self, username: str, role: Role = Role.MEMBER) -> Principal:
        user_id = uuid4()
        await self.sql("INSERT INTO users (user_id, username, role) VALUES ($1, $2, $3)", user_id, username, role.value)
        return Principal(user_id, username, role)

    async def sql(self, statement: str, *args: Any) -> list[Any]:
        async with self.core.database.connection() as connection:
            return await connection.fetch(statement, *args)


@asynccontextmanager
async def running(dsn: str, *, tools: CountingTools | None = None, model: Any = None, work: bool = True, **more: Any):
    """A core with its loops running, as one process of the product has them."""
    tools, model = tools or CountingTools(), model or ScriptedModel()
    async with open_core(dsn, model=model, sources=[tools], **more) as core:
        loops = [asyncio.create_task(core.hub.run()), asyncio.create_task(core.registry.run())]
        await core.publish_once(alone=True)
        if work:
            loops += [asyncio.create_task(core.worker.run()), asyncio.create_task(core.sweeps.run())]
            loops.append(asyncio.create_task(core.previews.run()))
        try:
            yield Floor(core, tools, model)
        finally:
            core.turns.drain()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)


@pytest.fixture
async def floor(dsn: str) -> AsyncIterator[Floor]:
    async with running(dsn, approvers=("U2BOB",), limits=Limits(seconds=60)) as floor:
        yield floor
