"""Logins at MCP servers as rows, their secrets sealed."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from agent.sealing import Sealer, place
from agent.tools.mcp_oauth import Grant, Login, OAuthSettings
from db import queries
from db.database import Tx

sql = queries.load("oauth")
MARGIN_S = 30.0
LONGEST_S = 30 * 24 * 3600.0
_TABLE, _STARTS = "mcp_oauth", "mcp_oauth_starts"
_SEALED = ("client_secret", "login")


@dataclass(frozen=True, slots=True)
class OAuthView:
    """A login as admins see it: no secret of it."""

    grant: Grant
    client_id: str | None
    has_client_secret: bool
    scope: str | None
    issuer: str | None
    authorized: bool
    authorized_by: UUID | None
    authorized_at: datetime | None


def view_of(row: Any) -> OAuthView:
    return OAuthView(
        grant=Grant(row["grant_type"]),
        client_id=row["client_id"],
        has_client_secret=row["client_secret"] is not None,
        scope=row["scope"],
        issuer=row["issuer"] or row["found_issuer"],
        authorized=row["obtained_at"] is not None,
        authorized_by=row["authorized_by"],
        authorized_at=row["authorized_at"],
    )


async def by_server(tx: Tx) -> dict[UUID, Any]:
    return {row["server_id"]: row for row in await tx.fetch(sql.list)}


def settings_of(row: Any, sealer: Sealer) -> OAuthSettings:
    """Return the settings with their secret; raises CannotOpen."""
    secret = row["client_secret"]
    return OAuthSettings(
        grant=Grant(row["grant_type"]),
        client_id=row["client_id"],
        client_secret=sealer.open(secret, place(_TABLE, row["server_id"], "client_secret")) if secret else None,
        scope=row["scope"],
        issuer=row["issuer"],
    )


def login_of(row: Any, sealer: Sealer, url: str) -> Login | None:
    """Return what is known of the login, unless it was given for another address; raises CannotOpen."""
    if row["login"] is None:
        return None
    login = Login(**json.loads(sealer.open(row["login"], place(_TABLE, row["server_id"], "login"))))
    return login if login.url == url else None


def sealed_login(sealer: Sealer, server_id: UUID, login: Login) -> str:
    return sealer.seal(json.dumps(asdict(login)), place(_TABLE, server_id, "login"))


def renew_in_s(login: Login) -> float | None:
    """Return in how many seconds the token is to be renewed, a little before its end; None: it names no end."""
    expires_in = login.token.get("expires_in") if login.token else None
    if expires_in is None:
        return None
    life = min(max(float(expires_in), 0.0), LONGEST_S)
    return life - min(MARGIN_S, life / 10)


async def save(tx: Tx, sealer: Sealer, server_id: UUID, settings: OAuthSettings | None) -> None:
    """Store the settings, None: no login; whatever was granted before is forgotten."""
    if settings is None:
        await tx.execute(sql.delete, server_id)
        return
    secret = settings.client_secret
    sealed = sealer.seal(secret, place(_TABLE, server_id, "client_secret")) if secret else None
    values = (settings.grant.value, settings.client_id, sealed, settings.scope, settings.issuer)
    await tx.execute(sql.save, server_id, *values)


def sealed_flow(sealer: Sealer, state_hash: bytes, flow: dict[str, Any]) -> str:
    return sealer.seal(json.dumps(flow), place(_STARTS, state_hash.hex(), "flow"))


def opened_flow(sealer: Sealer, row: Any) -> dict[str, Any]:
    """Return what was kept of a start; raises CannotOpen."""
    return json.loads(sealer.open(row["flow"], place(_STARTS, row["state_hash"].hex(), "flow")))


async def reseal(tx: Tx, sealer: Sealer) -> int:
    """Seal every secret of logins with the newest key; return how many were sealed anew. Raises CannotOpen."""
    count = 0
    for found in await tx.fetch(sql.list):
        row = await tx.fetchrow(sql.lock, found["server_id"])
        stale = [c for c in _SEALED if row and row[c] is not None and not sealer.is_newest(row[c])]
        if stale:
            made = {c: _anew(sealer, row[c], place(_TABLE, row["server_id"], c)) for c in _SEALED}
            await tx.execute(sql.reseal, row["server_id"], made["client_secret"], made["login"])
            count += len(stale)
    for row in await tx.fetch(sql.starts):
        if not sealer.is_newest(row["flow"]):
            made_flow = _anew(sealer, row["flow"], place(_STARTS, row["state_hash"].hex(), "flow"))
            await tx.execute(sql.reseal_start, row["state_hash"], made_flow)
            count += 1
    return count


def _anew(sealer: Sealer, sealed: str | None, at: str) -> str | None:
    return None if sealed is None else sealer.seal(sealer.open(sealed, at), at)
