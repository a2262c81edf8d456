"""Registered MCP servers as rows, their secrets sealed."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from agent.errors import NotFound
from agent.sealing import Sealer, place
from agent.tools import mcp_oauth_rows
from agent.tools.base import TOOL_NAMESPACE
from agent.tools.mcp_config import McpServerConfig, marks, sandboxing
from agent.tools.mcp_oauth import OAuthAccess
from agent.tools.mcp_oauth_rows import OAuthView
from db import queries
from db.database import Tx

sql = queries.load("servers")


class ServerNotFound(NotFound):
    code = "server_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such MCP server.")


@dataclass(frozen=True, slots=True)
class Registered:
    """A server as an admin registered it; of its secrets only the names."""

    server_id: UUID
    name: str
    transport: str
    command: str | None
    args: tuple[str, ...]
    url: str | None
    env_names: tuple[str, ...]
    header_names: tuple[str, ...]
    sandbox: dict[str, Any]
    tools: dict[str, Any]
    enabled: bool
    created_by: UUID | None
    created_at: datetime | None
    updated_at: datetime | None
    is_file: bool = False
    oauth: OAuthView | None = None


def file_server_id(name: str) -> UUID:
    """Return the stable id of a server of MCP_CONFIG."""
    return uuid5(TOOL_NAMESPACE, f"mcp-server\x1f{name}")


def registered(row: Any, oauth: Any = None) -> Registered:
    return Registered(
        server_id=row["server_id"],
        name=row["name"],
        transport=row["transport"],
        command=row["command"],
        args=tuple(row["args"]),
        url=row["url"],
        env_names=tuple(row["env_names"]),
        header_names=tuple(row["header_names"]),
        sandbox=row["sandbox"],
        tools=row["tools"],
        enabled=row["enabled"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        oauth=mcp_oauth_rows.view_of(oauth) if oauth else None,
    )


def sealed(sealer: Sealer, server_id: UUID, column: str, values: dict[str, str]) -> str | None:
    if not values:
        return None
    return sealer.seal(json.dumps(values), place("mcp_servers", server_id, column))


def opened(sealer: Sealer, row: Any, column: str) -> dict[str, str]:
    """Return the secrets of a column; raises CannotOpen."""
    if row[column] is None:
        return {}
    return json.loads(sealer.open(row[column], place("mcp_servers", row["server_id"], column)))


def config_of(row: Any, sealer: Sealer, oauth: OAuthAccess | None = None) -> McpServerConfig:
    """Return what a worker needs to connect; raises CannotOpen."""
    is_stdio = row["transport"] == "stdio"
    return McpServerConfig(
        name=row["name"],
        command=row["command"],
        args=tuple(row["args"]),
        env=opened(sealer, row, "env"),
        url=row["url"],
        headers=opened(sealer, row, "headers"),
        tools=marks(row["name"], row["tools"]),
        is_sse=row["transport"] == "sse",
        sandbox=sandboxing(row["name"], row["sandbox"]) if is_stdio else None,
        guarded=True,
        oauth=oauth,
    )


async def read_all(tx: Tx) -> list[Any]:
    return await tx.fetch(sql.list)


async def lock(tx: Tx, server_id: UUID) -> Any:
    row = await tx.fetchrow(sql.lock, server_id)
    if row is None:
        raise ServerNotFound
    return row


async def owners(tx: Tx) -> dict[str, UUID]:
    """Return who registered each server, by its name."""
    return {row["name"]: row["created_by"] for row in await tx.fetch(sql.owners)}


async def reseal(tx: Tx, sealer: Sealer) -> int:
    """Seal every secret with the newest key; return how many were sealed anew. Raises CannotOpen."""
    count = 0
    for found in await tx.fetch(sql.list):
        row = await tx.fetchrow(sql.lock, found["server_id"])
        stale = [c for c in ("env", "headers") if row and row[c] is not None and not sealer.is_newest(row[c])]
        if not stale:
            continue
        made = {c: sealed(sealer, row["server_id"], c, opened(sealer, row, c)) for c in ("env", "headers")}
        await tx.execute(sql.reseal, row["server_id"], made["env"], made["headers"])
        count += len(stale)
    return count + await mcp_oauth_rows.reseal(tx, sealer)
