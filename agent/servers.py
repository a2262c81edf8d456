"""The service's part for MCP servers: registered, changed, tried out and accepted by admins."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from agent import audit, egress, pins
from agent.accounts import AdminsOnly
from agent.audit import Kind
from agent.errors import Conflict
from agent.house import Part
from agent.sealing import CannotOpen
from agent.tools import mcp_oauth_rows, mcp_rows
from agent.tools.mcp_checks import Wanted, check
from agent.tools.mcp_oauth import OAuthSettings
from agent.tools.mcp_oauth_keeper import access_of
from agent.tools.mcp_rows import Registered, ServerNotFound, sql
from agent.tools.mcp_trial import Trial, try_once
from agent.types import Principal, Role
from db.database import Tx

FRESH_S = 90.0
"""A worker that hasn't reported for so long is gone."""


@dataclass(frozen=True, slots=True)
class Health:
    """How the workers find a server, together."""

    workers: int = 0
    connected: bool = False
    protocol: str | None = None
    tools: int = 0
    problems: tuple[str, ...] = ()
    last_connected_at: datetime | None = None
    last_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server, how it is doing, and which of its tools wait to be accepted."""

    server: Registered
    health: Health
    quarantined: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Patch:
    """What of a server changes; None leaves it. A secret that is None is removed, and `oauth` where it changes."""

    command: str | None = None
    args: tuple[str, ...] | None = None
    url: str | None = None
    env: Mapping[str, str | None] = field(default_factory=dict[str, str | None], repr=False)
    headers: Mapping[str, str | None] = field(default_factory=dict[str, str | None], repr=False)
    sandbox: Mapping[str, Any] | None = None
    tools: Mapping[str, Any] | None = None
    enabled: bool | None = None
    changes_oauth: bool = False
    oauth: OAuthSettings | None = None


class NameTaken(Conflict):
    code = "server_name_taken"


class FromFile(Conflict):
    code = "server_from_file"


class SecretsNeeded(Conflict):
    code = "secrets_needed"


class SecretsUnreadable(Conflict):
    code = "secrets_unreadable"


class Servers(Part):
    """MCP servers over the service; workers follow the rows within a moment, wherever they run."""

    async def register_server(self, wanted: Wanted, *, by: Principal, confirm_command: str | None = None) -> ServerView:
        """Add a server; its tools are accepted in this admin's name when they are first seen."""
        await self._admitted(by)
        check(wanted, confirm_command)
        await self._reachable(wanted)
        server_id = uuid4()
        async with self._database.transaction() as tx:
            admin = await self._admin(tx, by)
            taken = f"There is an MCP server named {wanted.name!r} already."
            if any(view.server.name.lower() == wanted.name.lower() for view in await self._server_views(tx)):
                raise NameTaken(taken)
            made = await tx.fetchval(sql.insert, server_id, *self._columns(server_id, wanted), admin.user_id)
            if made is None:
                raise NameTaken(taken)
            # The operator's file may have had a server of this name: what was approved of that one is not for this.
            await tx.execute(sql.forget_file_server, wanted.name)
            await tx.execute(pins.sql.accept_anew, wanted.name, admin.user_id)
            if wanted.oauth is not None:
                await mcp_oauth_rows.save(tx, self._house.sealer, server_id, wanted.oauth)
            view = await self._server_view(tx, server_id)
            await self._note_server(tx, Kind.SERVER_ADDED, admin, view.server)
        return view

    async def list_servers(self, *, by: Principal) -> list[ServerView]:
        async with self._database.connection() as connection:
            await self._admin(connection, by)
            return await self._server_views(connection)

    async def read_server(self, server_id: UUID, *, by: Principal) -> ServerView:
        async with self._database.connection() as connection:
            await self._admin(connection, by)
            return await self._server_view(connection, server_id)

    async def update_server(
        self, server_id: UUID, patch: Patch, *, by: Principal, confirm_command: str | None = None
    ) -> ServerView:
        """Change a server. A new address voids what was approved, and takes no stored secret along by itself."""
        await self._admitted(by)
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.read, server_id)
        if row is not None and patch.url is not None:
            await self._reachable(self._patched(row, patch))
        async with self._database.transaction() as tx:
            admin = await self._admin(tx, by)
            row = await self._own_row(tx, server_id)
            login = await tx.fetchrow(mcp_oauth_rows.sql.read, server_id)
            before, after = self._wanted(row, login), self._patched(row, patch, login)
            moved = after.address != before.address
            line = confirm_command if patch.command is not None or patch.args is not None else before.address
            check(after, line)
            if moved:
                _no_secret_goes_along(before, after, patch)
                await tx.execute(pins.sql.accept_anew, after.name, admin.user_id)
            columns = self._columns(server_id, after)
            await tx.execute(sql.save, server_id, *columns[2:])
            oauth = after.oauth
            if login is not None and oauth is not None and after.url != before.url and not patch.changes_oauth:
                # What was authorized ends, but its client stays the client of the issuer that was found.
                oauth = replace(oauth, issuer=oauth.issuer or (login["found_issuer"] if oauth.client_id else None))
            if patch.changes_oauth or (login is not None and after.url != before.url):
                await mcp_oauth_rows.save(tx, self._house.sealer, server_id, oauth)
            view = await self._server_view(tx, server_id)
            await self._note_server(tx, Kind.SERVER_CHANGED, admin, view.server, moved=moved)
        await pins.cancel_stranded(self._database)
        return view

    async def remove_server(self, server_id: UUID, *, by: Principal) -> None:
        """Remove a server with its pins, and what was allowed of its tools."""
        async with self._database.transaction() as tx:
            admin = await self._admin(tx, by)
            row = await self._own_row(tx, server_id)
            await tx.execute(sql.delete, server_id)
            for forget in (pins.sql.forget, sql.forget_policy, sql.forget_tools):
                await tx.execute(forget, row["name"])
            await self._note_server(tx, Kind.SERVER_REMOVED, admin, mcp_rows.registered(row))

    async def accept_tools(
        self,
        server_id: UUID,
        *,
        by: Principal,
        tool_ids: list[UUID] | None = None,
        seen: Mapping[UUID, str] | None = None,
    ) -> ServerView:
        """Take a server's changed tools out of quarantine as they are now: all, or those named."""
        async with self._database.transaction() as tx:
            admin = await self._admin(tx, by)
            view = await self._server_view(tx, server_id)
            name = view.server.name
            accepted = await pins.accept(tx, name, tool_ids, by=admin.user_id, seen=dict(seen or {}))
            view = await self._server_view(tx, server_id)
            for tool_id in accepted:
                data = {"server": name, "tool_id": tool_id}
                await audit.record(tx, Kind.TOOL_ACCEPTED, actor=admin.user_id, subject=tool_id, data=data)
        return view

    async def test_server(self, server_id: UUID, *, by: Principal) -> Trial:
        """Connect once from here, list the tools, and tell what came of it."""
        async with self._database.transaction() as tx:
            admin = await self._admin(tx, by)
            row = await self._own_row(tx, server_id)
            try:
                login = await tx.fetchrow(mcp_oauth_rows.sql.read, server_id)
                house = self._house
                oauth = access_of(self._database, house.sealer, house.keeping.egress, row, login)
                config = mcp_rows.config_of(row, house.sealer, oauth)
            except CannotOpen as error:
                raise SecretsUnreadable(f"Its stored secrets can't be used: {error}. Set them again.") from error
            await self._note_server(tx, Kind.SERVER_TESTED, admin, mcp_rows.registered(row))
        return await try_once(config, self._house.keeping)

    async def reseal_secrets(self, *, by: Principal) -> int:
        """Seal every stored secret with the newest key; return how many that were."""
        async with self._database.transaction() as tx:
            admin = await self._admin(tx, by)
            try:
                count = await mcp_rows.reseal(tx, self._house.sealer)
            except CannotOpen as error:
                raise SecretsUnreadable(f"A stored secret can't be read: {error}. Nothing was changed.") from error
            await audit.record(
                tx, Kind.SECRETS_RESEALED, actor=admin.user_id, subject="mcp_servers", data={"count": count}
            )
        return count

    async def _admitted(self, by: Principal) -> None:
        """Who may not do this hears that before anything is looked at, resolved or reached."""
        async with self._database.connection() as connection:
            await self._admin(connection, by)

    async def _admin(self, tx: Tx, by: Principal) -> Principal:
        acting = await self._acting(tx, by)
        if acting.role is not Role.ADMIN:
            raise AdminsOnly("Only an admin may see and change MCP servers.")
        return acting

    async def _reachable(self, wanted: Wanted) -> None:
        """Refuse an address that tools may not reach; looked up outside of any transaction."""
        if wanted.url is not None:
            await egress.check(wanted.url, self._house.keeping.egress)

    async def _own_row(self, tx: Tx, server_id: UUID) -> Any:
        try:
            return await mcp_rows.lock(tx, server_id)
        except ServerNotFound:
            if any(view.server.server_id == server_id for view in await self._server_views(tx)):
                raise FromFile("This server stands in the file that MCP_CONFIG names: change it there.") from None
            raise

    def _wanted(self, row: Any, login: Any = None) -> Wanted:
        sealer = self._house.sealer
        try:
            env, headers = mcp_rows.opened(sealer, row, "env"), mcp_rows.opened(sealer, row, "headers")
            oauth = mcp_oauth_rows.settings_of(login, sealer) if login else None
        except CannotOpen as error:
            raise SecretsUnreadable(f"Its stored secrets can't be used: {error}. Register it anew.") from error
        return Wanted(
            name=row["name"],
            transport=row["transport"],
            command=row["command"],
            args=tuple(row["args"]),
            env=env,
            url=row["url"],
            headers=headers,
            sandbox=row["sandbox"],
            tools=row["tools"],
            enabled=row["enabled"],
            oauth=oauth,
        )

    def _patched(self, row: Any, patch: Patch, login: Any = None) -> Wanted:
        found = self._wanted(row, login)
        return replace(
            found,
            command=found.command if patch.command is None else patch.command,
            args=found.args if patch.args is None else patch.args,
            url=found.url if patch.url is None else patch.url,
            env=_merged(found.env, patch.env),
            headers=_merged(found.headers, patch.headers),
            sandbox=found.sandbox if patch.sandbox is None else patch.sandbox,
            tools=found.tools if patch.tools is None else patch.tools,
            enabled=found.enabled if patch.enabled is None else patch.enabled,
            oauth=patch.oauth if patch.changes_oauth else found.oauth,
        )

    def _columns(self, server_id: UUID, wanted: Wanted) -> tuple[Any, ...]:
        sealer = self._house.sealer
        return (
            wanted.name,
            wanted.transport,
            wanted.command,
            list(wanted.args),
            wanted.url,
            mcp_rows.sealed(sealer, server_id, "env", dict(wanted.env)),
            sorted(wanted.env),
            mcp_rows.sealed(sealer, server_id, "headers", dict(wanted.headers)),
            sorted(wanted.headers),
            dict(wanted.sandbox),
            dict(wanted.tools),
            wanted.enabled,
        )

    async def _server_views(self, tx: Tx) -> list[ServerView]:
        reports: dict[UUID, list[Any]] = {}
        for report in await tx.fetch(sql.health, FRESH_S):
            reports.setdefault(report["server_id"], []).append(report)
        changed = await pins.changed_by_server(tx)
        logins = await mcp_oauth_rows.by_server(tx)
        rows = [mcp_rows.registered(row, logins.get(row["server_id"])) for row in await mcp_rows.read_all(tx)]
        known = {server.server_id for server in rows}
        rows += [_of_file(found[0]) for key, found in reports.items() if key not in known and found[0]["is_file"]]
        return [
            ServerView(server, _health(reports.get(server.server_id, [])), tuple(changed.get(server.name, ())))
            for server in rows
        ]

    async def _server_view(self, tx: Tx, server_id: UUID) -> ServerView:
        for view in await self._server_views(tx):
            if view.server.server_id == server_id:
                return view
        raise ServerNotFound

    async def _note_server(self, tx: Tx, kind: Kind, admin: Principal, server: Registered, **more: Any) -> None:
        oauth = server.oauth
        data = {
            "name": server.name,
            "transport": server.transport,
            "command": server.command,
            "args": list(server.args),
            "url": server.url,
            "env_names": list(server.env_names),
            "header_names": list(server.header_names),
            "enabled": server.enabled,
            **({"oauth": {"grant": oauth.grant, "client_id": oauth.client_id, "scope": oauth.scope}} if oauth else {}),
            **more,
        }
        await audit.record(tx, kind, actor=admin.user_id, subject=server.server_id, data=data)


def _merged(stored: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**stored, **given}.items() if value is not None}


def _no_secret_goes_along(before: Wanted, after: Wanted, patch: Patch) -> None:
    """Whoever moves a server must know its secrets: they were stored for the address that it had."""
    kept = [name for name in before.env if name in after.env and name not in patch.env]
    kept += [name for name in before.headers if name in after.headers and name not in patch.headers]
    if before.oauth and before.oauth.client_secret and not patch.changes_oauth:
        kept.append("oauth")
    if kept:
        raise SecretsNeeded(
            f"The address changes, so stored secrets are not taken along: send {', '.join(sorted(kept))} again, "
            "or null to remove them."
        )


def _of_file(report: Any) -> Registered:
    return Registered(
        server_id=report["server_id"],
        name=report["name"],
        transport=report["transport"],
        command=None,
        args=(),
        url=None,
        env_names=(),
        header_names=(),
        sandbox={},
        tools={},
        enabled=True,
        created_by=None,
        created_at=None,
        updated_at=None,
        is_file=True,
    )


def _health(reports: list[Any]) -> Health:
    if not reports:
        return Health()
    problems = dict.fromkeys(problem for report in reports for problem in report["problems"])
    connected_at = [report["connected_at"] for report in reports if report["connected_at"]]
    return Health(
        workers=len(reports),
        connected=all(report["connected"] for report in reports),
        protocol=next((report["protocol"] for report in reports if report["protocol"]), None),
        tools=max(report["tools"] for report in reports),
        problems=tuple(problems),
        last_connected_at=max(connected_at, default=None),
        last_seen_at=max(report["seen_at"] for report in reports),
    )
