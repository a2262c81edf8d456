"""The service's part for credentials: access tokens, service tokens, and a cache that never outlives a change."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from agent import audit, tokens, users
from agent.accounts import AdminsOnly
from agent.audit import Kind
from agent.errors import Conflict, Invalid, NotFound
from agent.house import Part, before, cursor_of
from agent.identities import Authenticated
from agent.tokens import BadToken
from agent.types import Page, Principal, Role
from db import queries

sql = queries.load("accounts")

SCOPES = ("read", "chat", "approve", "admin")
LONGEST_DAYS = 366
_NAME = re.compile(r"[\w.:-][\w.: -]{0,79}")


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """A program's token, without its secret."""

    token_id: UUID
    name: str
    user_id: UUID
    role: Role
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class BadScope(Invalid):
    code = "bad_scope"


class BadTokenName(Invalid):
    code = "bad_token_name"


class TokenNameTaken(Conflict):
    code = "token_name_taken"


class TokenNotFound(NotFound):
    code = "token_not_found"


class Authentication(Part):
    """Tells who a token is, and manages the tokens of programs."""

    async def authenticate(self, token: str) -> Authenticated:
        """Return who this token is; raises BadToken. What it cost is remembered for seconds, and forgotten at once
        when the user's row changes."""
        known = self._house.identities.get(token)
        if known is not None:
            return known
        seen = self._house.identities.generation
        if token.startswith(tokens.SERVICE_PREFIX):
            found = await self._service_token(token)
        else:
            found = await self._access_token(token)
        self._house.identities.put(token, found, seen)
        return found

    async def _access_token(self, token: str) -> Authenticated:
        claims = self._house.signer.read(token)
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.read, claims.user_id)
        if row is None or row["disabled"] or row["token_version"] != claims.version:
            raise BadToken("This token was ended; log in again.")
        return Authenticated(users.principal(row), None, claims.expires_at, claims.login_at)

    async def _service_token(self, token: str) -> Authenticated:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.find_token, tokens.hashed(token))
            user = await users.read(connection, row["user_id"]) if row else None
        if row is None or user is None or user.disabled:
            raise BadToken("This token is not valid, or was revoked, or has expired.")
        return Authenticated(user, frozenset(row["scopes"]), row["expires_at"])

    async def create_token(
        self, *, by: Principal, name: str, scopes: tuple[str, ...], role: Role, expires_in_days: int
    ) -> tuple[ServiceToken, str]:
        """Make a program's token; its secret is returned once and kept nowhere."""
        if by.role is not Role.ADMIN:
            raise AdminsOnly("Only an admin may make service tokens.")
        if not scopes or set(scopes) - set(SCOPES):
            given = ", ".join(scopes) or "none"
            raise BadScope(f"The scopes must be one or more of {', '.join(SCOPES)}, not: {given}.")
        if not _NAME.fullmatch(name):
            raise BadTokenName("A token's name has 1 to 80 letters, digits, dots, colons, dashes or spaces.")
        if not 1 <= expires_in_days <= LONGEST_DAYS:
            raise Invalid(f"expires_in_days must lie between 1 and {LONGEST_DAYS}.")
        secret, token_id = tokens.new_service_token(), uuid4()
        async with self._database.transaction() as tx:
            user = await tx.fetchrow(sql.create, uuid4(), f"token:{name}:{token_id.hex[:8]}", None, None, role.value)
            row = await tx.fetchrow(
                sql.create_token,
                token_id,
                name,
                tokens.hashed(secret),
                user["user_id"],
                sorted(set(scopes)),
                by.user_id,
                expires_in_days * 86_400.0,
            )
            if row is None:
                raise TokenNameTaken(f"There is a token named {name!r} already; revoke it or choose another name.")
            data = {"name": name, "scopes": row["scopes"], "role": role.value}
            await audit.record(tx, Kind.TOKEN_CREATED, actor=by.user_id, subject=token_id, data=data)
        return _token(row, role), secret

    async def list_tokens(self, *, by: Principal, limit: int = 50, cursor: str | None = None) -> Page[ServiceToken]:
        if by.role is not Role.ADMIN:
            raise AdminsOnly("Only an admin may see service tokens.")
        async with self._database.connection() as connection:
            rows = await connection.fetch(sql.list_tokens, *before(cursor), limit + 1)
        found = [_token(row, Role(row["role"])) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(found, cursor_of(found[-1].created_at, found[-1].token_id) if more else None)

    async def revoke_token(self, token_id: UUID, *, by: Principal) -> None:
        """End a token at once, on every replica."""
        if by.role is not Role.ADMIN:
            raise AdminsOnly("Only an admin may revoke service tokens.")
        async with self._database.transaction() as tx:
            row = await tx.fetchrow(sql.revoke_token, token_id)
            if row is None:
                raise TokenNotFound("There is no such token.")
            await tx.execute(sql.disable_user, row["user_id"])
            await audit.record(tx, Kind.TOKEN_REVOKED, actor=by.user_id, subject=token_id, data={"name": row["name"]})


def _token(row: Any, role: Role) -> ServiceToken:
    return ServiceToken(
        token_id=row["token_id"],
        name=row["name"],
        user_id=row["user_id"],
        role=role,
        scopes=tuple(row["scopes"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
