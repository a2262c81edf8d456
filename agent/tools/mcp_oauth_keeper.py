"""A server's token, kept by all replicas together: in the database, renewed by one of them at a time."""

import asyncio
from collections import deque
from typing import Any
from uuid import UUID, uuid4

import structlog

from agent.egress import EgressPolicy
from agent.sealing import CannotOpen, Sealer
from agent.tools import mcp_oauth_rows as rows
from agent.tools.mcp_oauth import Grant, Login, NotLoggedIn, OAuthAccess
from db.database import Database

RENEW_S = 25.0
LEASE_S = 35.0
"""Longer than a renewal may take: who still holds the lease is dead, not slow."""
WAIT_S = 45.0
POLL_S = 0.1
QUIET_S = 1.0
"""A login that just failed is not tried again so soon: connecting asks more than once."""
_ANOTHER = "is being connected anew, with another login"

log = structlog.get_logger()


class Keeper:
    """The token of one server under one generation of its settings. It opens no connection before one is asked for."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        policy: EgressPolicy | None,
        *,
        server_id: UUID,
        name: str,
        url: str,
        generation: int,
        is_sse: bool,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._policy = policy
        self._server_id = server_id
        self._name = name
        self._url = url
        self._generation = generation
        self._is_sse = is_sse
        self._held: tuple[str, float | None] | None = None
        self._known: deque[str] = deque(maxlen=32)
        self._renewing: asyncio.Task[str] | None = None
        self._trouble: NotLoggedIn | None = None
        self._quiet_until = 0.0

    @property
    def needs_person(self) -> bool:
        return self._trouble is not None and self._trouble.needs_person

    def masked(self, text: str) -> str:
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    async def token(self, *, rejected: str | None = None, challenge: str | None = None) -> str:
        for _ in range(2):
            if (held := self._fresh()) is not None and held != rejected:
                return held
            if self._trouble and asyncio.get_running_loop().time() < self._quiet_until:
                raise NotLoggedIn(self._trouble.message, needs_person=self._trouble.needs_person)
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._obtain(rejected, challenge), name=f"login:{self._name}")
            # Whoever asks may be cancelled; a renewal under way may not, or a token that was used up is lost.
            made = await asyncio.shield(self._renewing)
            if made != rejected:
                return made
        raise NotLoggedIn("refuses the token that it was given")

    def _fresh(self) -> str | None:
        if self._held is None:
            return None
        text, until = self._held
        return text if until is None or asyncio.get_running_loop().time() < until else None

    async def _obtain(self, rejected: str | None, challenge: str | None) -> str:
        clock = asyncio.get_running_loop().time
        until = clock() + WAIT_S
        try:
            while (made := await self._once(rejected, challenge)) is None:
                if clock() > until:
                    raise NotLoggedIn("needs a login, which another process has been busy with for too long")
                await asyncio.sleep(POLL_S)
        except NotLoggedIn as error:
            self._fail(error)
            raise
        except CannotOpen as error:
            trouble = NotLoggedIn(f"needs a login, but its stored secrets can't be used: {error}")
            self._fail(trouble)
            raise trouble from error
        self._trouble = None
        return made

    def _fail(self, trouble: NotLoggedIn) -> None:
        self._trouble = trouble
        self._quiet_until = asyncio.get_running_loop().time() + QUIET_S

    async def _once(self, rejected: str | None, challenge: str | None) -> str | None:
        """Return the stored token, or a renewed one; None while another replica renews it."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(rows.sql.read, self._server_id)
        if row is None or row["generation"] != self._generation:
            raise NotLoggedIn(_ANOTHER)
        login = rows.login_of(row, self._sealer, self._url)
        self._note(login)
        fresh_s = row["fresh_s"]
        if login and login.access_token and login.access_token != rejected and (fresh_s is None or fresh_s > 0):
            return self._hold(login, fresh_s)
        if row["grant_type"] == Grant.AUTHORIZATION_CODE and (login is None or login.token is None):
            raise _authorization_needed()
        owner = uuid4()
        values = (self._server_id, owner, LEASE_S, self._generation, row["version"])
        async with self._database.connection() as connection:
            claimed = await connection.fetchval(rows.sql.claim_renewal, *values)
        return None if claimed is None else await self._renew(row, login, owner, challenge)

    async def _renew(self, row: Any, login: Login | None, owner: UUID, challenge: str | None) -> str:
        done = False
        try:
            renewed = await self._asked(row, login, challenge)
            self._note(renewed)
            async with self._database.connection() as connection:
                if renewed is None:
                    lapsed = rows.sealed_login(self._sealer, self._server_id, _without_token(login, self._url))
                    await connection.execute(rows.sql.lapsed, self._server_id, owner, lapsed)
                    stored = None
                else:
                    sealed = rows.sealed_login(self._sealer, self._server_id, renewed)
                    left = rows.renew_in_s(renewed)
                    values = (self._server_id, owner, sealed, renewed.issuer, left)
                    stored = await connection.fetchval(rows.sql.renewed, *values)
            done = True
        finally:
            if not done:
                async with self._database.connection() as connection:
                    await connection.execute(rows.sql.release, self._server_id, owner)
        if renewed is None:
            log.warning("mcp.authorization_lapsed", server=self._name)
            raise _authorization_needed()
        if stored is None:
            raise NotLoggedIn(_ANOTHER)
        log.info("mcp.logged_in", server=self._name, grant=row["grant_type"])
        return self._hold(renewed, rows.renew_in_s(renewed))

    async def _asked(self, row: Any, login: Login | None, challenge: str | None) -> Login | None:
        """Return the login with a new token; None where a person has to give the authorization anew."""
        from agent.tools import mcp_oauth_flow as flow  # the SDK takes most of a second to import
        from agent.tools.mcp_oauth_web import web_to

        settings = rows.settings_of(row, self._sealer)
        self._remember(settings.client_secret)
        try:
            async with asyncio.timeout(RENEW_S), web_to(self._url, self._policy) as web:
                renewed = await flow.refreshed(web, login, settings) if login else None
                if renewed is None and settings.grant is Grant.CLIENT_CREDENTIALS:
                    renewed = await flow.client_login(
                        web, self._url, settings, known=login, is_sse=self._is_sse, challenge=challenge
                    )
        except TimeoutError:
            raise NotLoggedIn(f"needs a login, which took longer than {RENEW_S:g} s") from None
        return renewed

    def _hold(self, login: Login, fresh_s: float | None) -> str:
        text = login.access_token or ""
        self._held = (text, None if fresh_s is None else asyncio.get_running_loop().time() + fresh_s)
        return text

    def _note(self, login: Login | None) -> None:
        for secret in login.secrets if login else ():
            self._remember(secret)

    def _remember(self, secret: str | None) -> None:
        if secret and len(secret) >= 8 and secret not in self._known:
            self._known.append(secret)


def access_of(
    database: Database, sealer: Sealer, policy: EgressPolicy | None, server: Any, row: Any
) -> OAuthAccess | None:
    """Return the login of a server from both of its rows, or None where it has none."""
    if row is None:
        return None
    keeper = Keeper(
        database,
        sealer,
        policy,
        server_id=server["server_id"],
        name=server["name"],
        url=server["url"],
        generation=row["generation"],
        is_sse=server["transport"] == "sse",
    )
    return OAuthAccess(server["server_id"], Grant(row["grant_type"]), row["generation"], keeper)


def _without_token(login: Login | None, url: str) -> Login:
    if login is None:
        return Login(url)
    return Login(login.url, login.client, login.metadata, login.resource, login.scope)


def _authorization_needed() -> NotLoggedIn:
    return NotLoggedIn("needs authorization by an admin", needs_person=True)
