"""A worker's tools and the database's word on them, kept together: what it offers, accepts, follows and reports."""

import asyncio
import contextlib
from collections.abc import Sequence
from uuid import UUID, uuid4

import structlog

from agent import pins
from agent.egress import EgressPolicy
from agent.sealing import CannotOpen, Sealer
from agent.tools import catalogue, mcp_oauth_rows, mcp_rows
from agent.tools.mcp import McpManager, McpServerConfig, ServerHealth
from agent.tools.mcp_oauth_keeper import access_of
from agent.tools.mcp_rows import file_server_id
from agent.tools.registry import Registry
from db.database import Database

log = structlog.get_logger()

PUBLISH_S = 30.0
LOOK_S = 2.0
"""How soon a lost connection shows in the report."""
FORGET_S = 600.0


class Followed:
    """The manager's servers: those of the operator's file, and those that admins registered."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        manager: McpManager,
        of_file: Sequence[McpServerConfig] = (),
        egress: EgressPolicy | None = None,
    ) -> None:
        self._database = database
        self._egress = egress or EgressPolicy()
        self._sealer = sealer
        self._manager = manager
        self._of_file = tuple(of_file)
        self._noted = False
        self._registered: dict[UUID, McpServerConfig] = {}
        self._unusable: dict[UUID, tuple[str, str, str]] = {}
        self._worker_id = uuid4()
        self._reported: list[ServerHealth] | None = None

    async def follow(self) -> None:
        """Read the rows and have exactly these servers beside the file's; the file's own names come first."""
        await self._note_addresses()
        async with self._database.connection() as connection:
            rows = await mcp_rows.read_all(connection)
            logins = await mcp_oauth_rows.by_server(connection)
        taken = {config.name.lower() for config in self._of_file}
        found: dict[UUID, McpServerConfig] = {}
        unusable: dict[UUID, tuple[str, str, str]] = {}
        for row in rows:
            key, name = row["server_id"], row["name"]
            if not row["enabled"]:
                continue
            if name.lower() in taken:
                unusable[key] = (name, row["transport"], f"MCP_CONFIG has a server named {name} too: that one counts.")
                continue
            try:
                oauth = access_of(self._database, self._sealer, self._egress, row, logins.get(key))
                found[key] = mcp_rows.config_of(row, self._sealer, oauth)
            except (CannotOpen, ValueError) as error:
                # After a rotation the row may be sealed with a key that only the next start will know.
                log.error("mcp.secrets_unusable", server=name, error=str(error))
                unusable[key] = (name, row["transport"], f"The stored secrets of {name} can't be used: {error}.")
                if (known := self._registered.get(key)) is not None:
                    found[key] = known
        self._registered, self._unusable = found, unusable
        self._manager.configure([*self._of_file, *found.values()])
        await self.report()

    async def _note_addresses(self) -> None:
        """Note where the file's servers are, once: it is read at start, and two replicas that differ must not void what
        was approved whenever they look."""
        if self._noted:
            return
        for config in self._of_file:
            # One at a time: what is written to the audit log comes last in its transaction.
            async with self._database.transaction() as tx:
                await pins.note_address(tx, config.name, config.transport, config.address_hash)
        self._noted = True

    async def report(self, *, always: bool = True) -> None:
        """Write down how each server is doing here, if it is doing differently than before."""
        health = self._manager.health()
        if not always and health == self._reported:
            return
        ids = {config.name: key for key, config in self._registered.items()}
        values: list[tuple[object, ...]] = [
            (
                self._worker_id,
                ids.get(h.name) or file_server_id(h.name),
                h.name,
                h.config.transport,
                h.name not in ids,
                h.connected,
                h.protocol,
                h.tools,
                h.problems[:20],
            )
            for h in health
        ]
        values += [
            (self._worker_id, key, name, transport, False, False, None, 0, [problem])
            for key, (name, transport, problem) in self._unusable.items()
            if key not in self._registered
        ]
        async with self._database.transaction() as tx:
            await tx.executemany(mcp_rows.sql.report, values)
            await tx.execute(mcp_rows.sql.forget_reports, self._worker_id, [value[1] for value in values], FORGET_S)
        self._reported = health


class Publisher:
    """Keeps catalogue, pins and registry at one: `heard` is told of what others changed, `run` sees to it."""

    def __init__(self, database: Database, registry: Registry, followed: Followed | None) -> None:
        self._database = database
        self._registry = registry
        self._followed = followed
        self._wake = asyncio.Event()
        self._todo: set[str] = set()
        registry.subscribe(self._changed)

    def heard(self, what: str | None) -> None:
        """Take note of a notification; None: some may have been missed."""
        self._todo.update({"servers", "catalogue"} if what is None else {what})
        self._wake.set()

    async def _changed(self) -> None:
        self._todo.add("publish")
        self._wake.set()

    async def run(self, *, alone: bool) -> None:
        """Publish what changes here, follow what changes elsewhere, until cancelled.

        `alone`: no other replica offers tools, so what is missing here is gone at once.
        """
        clock = asyncio.get_running_loop().time
        last = 0.0
        while True:
            todo, self._todo = self._todo, set()
            self._wake.clear()
            if clock() - last > PUBLISH_S:
                todo.add("publish")
            try:
                await self._see_to(todo, alone=alone)
            except Exception as error:  # noqa: BLE001 - one sweep; the next one tries again
                log.warning("tools.not_published", error=f"{type(error).__name__}: {error}")
                self._todo |= todo - {"reload"}
            if "publish" in todo:
                last = clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    async def _see_to(self, todo: set[str], *, alone: bool) -> None:
        if "reload" in todo:
            await self._registry.reload()
            todo.add("publish")
        if "servers" in todo:
            await self.follow()
        if "publish" in todo:
            await self.publish(alone=alone)
        elif "catalogue" in todo:
            await self._refresh()
        if self._followed:
            await self._followed.report(always="publish" in todo)

    async def follow(self) -> None:
        """Have the servers that are registered now."""
        if self._followed:
            await self._followed.follow()

    async def publish(self, *, alone: bool) -> None:
        """Write what this process offers, pin what is new, quarantine what changed, and learn what others say of it."""
        specs = self._registry.specs()
        async with self._database.transaction() as tx:
            await catalogue.publish(tx, specs, others_within_s=0 if alone else PUBLISH_S * 3)
            await pins.see(tx, specs, await mcp_rows.owners(tx))
        await pins.cancel_stranded(self._database)
        await self._refresh()

    async def _refresh(self) -> None:
        async with self._database.connection() as connection:
            self._registry.govern(await catalogue.governance(connection))
