"""Where every constructor is called: settings in, a runtime out."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from langchain_core.language_models import BaseChatModel

from agent.endings import Endings
from agent.events import Hub
from agent.graph.nodes import Nodes
from agent.house import House
from agent.identities import Identities
from agent.ports import Courier, GroupDirectory, ProfileDirectory
from agent.run import Limits
from agent.service import AgentService
from agent.throttle import Throttle
from agent.tokens import Signer
from agent.toolcalls import ToolCalls
from agent.tools import catalogue
from agent.tools.base import ToolSource
from agent.tools.registry import Registry
from agent.worker import Sweeps, TurnWorker
from db.checkpoints import Pool, make_pool
from db.database import Database
from db.dispatch import Worker

log = structlog.get_logger()
PUBLISH_S = 30.0


@dataclass(frozen=True, slots=True)
class Core:
    """The product without its doors, connected to its database."""

    database: Database
    hub: Hub
    registry: Registry
    service: AgentService
    turns: TurnWorker
    worker: Worker
    sweeps: Sweeps

    async def publish_tools(self, *, alone: bool) -> None:
        """Keep the catalogue in the database at what this process offers, until cancelled.

        `alone`: no other replica offers tools, so what is missing here is gone at once.
        """
        changed = asyncio.Event()

        async def tell() -> None:
            changed.set()

        self.registry.subscribe(tell)
        while True:
            changed.clear()
            await self.publish_once(alone=alone)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_S):
                    await changed.wait()

    async def publish_once(self, *, alone: bool) -> None:
        specs = [tool.spec for tool in self.registry.tools()]
        try:
            async with self.database.transaction() as tx:
                await catalogue.publish(tx, specs, others_within_s=0 if alone else PUBLISH_S * 3)
        except Exception as error:  # noqa: BLE001 - one sweep; the next one tries again
            log.warning("tools.not_published", error=f"{type(error).__name__}: {error}")


@asynccontextmanager
async def open_core(
    dsn: str,
    *,
    model: BaseChatModel,
    sources: Sequence[ToolSource],
    approvers: tuple[str, ...] = (),
    limits: Limits | None = None,
    groups: GroupDirectory | None = None,
    profiles: ProfileDirectory | None = None,
    courier: Courier | None = None,
    signing_keys: tuple[str, ...] = (),
    concurrency: int = 20,
    asyncpg_pool: int = 10,
    psycopg_pool: int = 8,
    database: Database | None = None,
) -> AsyncGenerator[Core]:
    """Connect and build everything but the doors; nothing runs yet. Raises DatabaseUnreachable."""
    limits = limits or Limits()
    database = database or Database(dsn, max_size=asyncpg_pool)
    await database.open()
    pool: Pool = make_pool(dsn, max_size=psycopg_pool)
    await pool.open()
    try:
        hub, endings, registry = Hub(database), Endings(database), Registry(list(sources))
        calls = ToolCalls(database, registry, approvers=approvers, groups=groups, limits=limits)
        nodes = Nodes(database, model, registry, calls, hub, limits)
        turns = TurnWorker(database, pool, nodes, calls, endings, limits=limits, profiles=profiles)
        hub.on_cancel = turns.cancel_requested
        identities = Identities()
        hub.on_user_change = identities.forget
        house = House(
            database=database,
            hub=hub,
            endings=endings,
            limits=limits,
            # Without a key (a script that only reads) tokens are signed with one that nobody else has.
            signer=Signer(signing_keys or (secrets.token_hex(32),)),
            identities=identities,
            throttle=Throttle(database),
            approvers=approvers,
            groups=groups,
            profiles=profiles,
            courier=courier,
        )
        yield Core(
            database=database,
            hub=hub,
            registry=registry,
            service=AgentService(house),
            turns=turns,
            worker=Worker(pool, turns.advance, concurrency=concurrency),
            sweeps=Sweeps(database, endings),
        )
    finally:
        await pool.close()
        await database.close()
