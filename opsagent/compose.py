"""Where every constructor is called: settings in, a runtime out."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.endings import Endings
from agent.events import Hub
from agent.house import House
from agent.identities import Identities
from agent.ports import Courier, GroupDirectory, ProfileDirectory
from agent.run import Limits
from agent.sealing import Sealer
from agent.service import AgentService
from agent.throttle import Throttle
from agent.tokens import Signer
from agent.tools.base import ToolSource
from agent.tools.mcp import Keeping, McpManager, McpServerConfig
from agent.tools.publishing import Followed, Publisher
from agent.tools.registry import Registry
from db.database import Database

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from agent.previews import Previews
    from agent.worker import Sweeps, TurnWorker
    from db.dispatch import Worker
    from opsagent.working import Work

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Core:
    """The product without its doors, connected to its database."""

    database: Database
    hub: Hub
    registry: Registry
    publisher: Publisher
    service: AgentService
    work: "Work | None"
    """None: this process runs no turns."""

    @property
    def turns(self) -> "TurnWorker":
        return self._work.turns

    @property
    def worker(self) -> "Worker":
        return self._work.worker

    @property
    def sweeps(self) -> "Sweeps":
        return self._work.sweeps

    @property
    def previews(self) -> "Previews":
        return self._work.previews

    @property
    def _work(self) -> "Work":
        if self.work is None:
            raise RuntimeError("This process runs no turns.")
        return self.work

    async def follow_servers(self) -> None:
        """Have the registered MCP servers, before anything is tried."""
        try:
            await self.publisher.follow()
        except Exception as error:  # noqa: BLE001 - one sweep; the next one tries again
            log.warning("servers.not_read", error=f"{type(error).__name__}: {error}")

    async def publish_tools(self, *, alone: bool) -> None:
        """Keep the catalogue in the database at what this process offers, until cancelled."""
        await self.publisher.run(alone=alone)

    async def publish_once(self, *, alone: bool) -> None:
        try:
            await self.publisher.publish(alone=alone)
        except Exception as error:  # noqa: BLE001 - one sweep; the next one tries again
            log.warning("tools.not_published", error=f"{type(error).__name__}: {error}")


@asynccontextmanager
async def open_core(
    dsn: str,
    *,
    model: "BaseChatModel | None",
    sources: Sequence[ToolSource],
    approvers: tuple[str, ...] = (),
    limits: Limits | None = None,
    groups: GroupDirectory | None = None,
    profiles: ProfileDirectory | None = None,
    courier: Courier | None = None,
    outsiders_may_chat: bool = False,
    signing_keys: tuple[str, ...] = (),
    concurrency: int = 20,
    asyncpg_pool: int = 10,
    psycopg_pool: int = 8,
    database: Database | None = None,
    keeping: Keeping | None = None,
    mcp: McpManager | None = None,
    file_servers: Sequence[McpServerConfig] = (),
    redact: tuple[str, ...] = (),
    public_url: str = "http://127.0.0.1:8000",
) -> AsyncGenerator[Core]:
    """Connect and build everything but the doors; nothing runs yet. Raises DatabaseUnreachable.

    Without a `model` it runs no turns, and loads nothing of what they need.
    `mcp` is a source like the others, which also follows the servers that admins register.
    """
    limits = limits or Limits()
    database = database or Database(dsn, max_size=asyncpg_pool)
    await database.open()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        # Without a key (a script that only reads) tokens are signed, and secrets sealed, with one that nobody else has.
        keys = signing_keys or (secrets.token_hex(32),)
        hub, endings, sealer = Hub(database), Endings(database), Sealer(keys)
        registry = Registry([*sources, *([mcp] if mcp else [])], redact)
        keeping = keeping or Keeping()
        followed = Followed(database, sealer, mcp, file_servers, keeping.egress) if mcp else None
        publisher = Publisher(database, registry, followed)
        hub.on_tools_change = publisher.heard
        work = None
        if model is not None:
            from opsagent.working import open_work

            working = open_work(
                database,
                hub,
                endings,
                registry,
                model=model,
                approvers=approvers,
                limits=limits,
                groups=groups,
                profiles=profiles,
                outsiders_may_chat=outsiders_may_chat,
                redact=redact,
                concurrency=concurrency,
                psycopg_pool=psycopg_pool,
            )
            work = await stack.enter_async_context(working)
        identities = Identities()
        hub.on_user_change = identities.forget
        house = House(
            database=database,
            hub=hub,
            endings=endings,
            limits=limits,
            signer=Signer(keys),
            sealer=sealer,
            keeping=keeping,
            public_url=public_url,
            identities=identities,
            throttle=Throttle(database),
            approvers=approvers,
            groups=groups,
            profiles=profiles,
            courier=courier,
            outsiders_may_chat=outsiders_may_chat,
        )
        yield Core(
            database=database,
            hub=hub,
            registry=registry,
            publisher=publisher,
            service=AgentService(house),
            work=work,
        )
