"""The service's part for logins at MCP servers: an admin starts one, and their browser brings the answer."""

import hashlib
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agent import audit, users
from agent.accounts import AdminsOnly
from agent.audit import Kind
from agent.errors import Conflict, Expired, Invalid, NotAllowed, NotFound
from agent.sealing import CannotOpen
from agent.servers import SecretsUnreadable, Servers
from agent.tools import mcp_oauth_rows, mcp_rows
from agent.tools.mcp_oauth import Grant, Login, NotLoggedIn, OAuthSettings
from agent.types import Principal, Role
from db.database import Tx

if TYPE_CHECKING:
    from agent.tools.mcp_oauth_flow import Begun, Browser

START_LIFE_S = 600.0
CALLBACK = "/api/mcp-servers/oauth/callback"
DOCUMENT = "/api/mcp-servers/oauth/client.json"
_CODE = re.compile(r"[a-z_]{1,40}")
_AGAIN = "Start again with POST /api/mcp-servers/{id}/oauth/start."


@dataclass(frozen=True, slots=True)
class Started:
    """Where the admin's browser has to go, and until when it may come back."""

    authorization_url: str
    expires_at: datetime


class NothingToAuthorize(Conflict):
    code = "nothing_to_authorize"


class LoginFailed(Conflict):
    """The MCP server's authorization server can't be used so; the message says why."""

    code = "login_failed"


class LoginChanged(Conflict):
    code = "changed_meanwhile"


class UnknownAuthorization(NotFound):
    code = "authorization_unknown"

    def __init__(self) -> None:
        super().__init__(f"This authorization was used already, or never started here. {_AGAIN}")


class AuthorizationExpired(Expired):
    code = "authorization_expired"


class AuthorizationRefused(NotAllowed):
    code = "authorization_refused"


class WrongIssuer(Invalid):
    code = "wrong_issuer"


class ServerLogins(Servers):
    """Authorizations that a person gives in a browser. Any replica takes the answer: all that counts is stored."""

    async def start_server_login(self, server_id: UUID, *, by: Principal) -> Started:
        """Find the authorization server and return where the admin allows opsagent to use the MCP server."""
        await self._admitted(by)
        async with self._database.transaction() as tx:
            server, row, settings = await self._login_rows(tx, server_id)
            known = self._opened(row, server["url"])
        begun = await self._begun(server, settings, known)
        async with self._database.transaction() as tx:
            admin = await self._admin(tx, by)
            again, row_now, _ = await self._login_rows(tx, server_id)
            if (again["url"], row_now["generation"]) != (server["url"], row["generation"]):
                raise LoginChanged(f"The server was changed meanwhile. {_AGAIN}")
            digest = _digest(begun.state)
            flow = {
                "login": asdict(begun.login),
                "verifier": begun.verifier,
                "generation": row["generation"],
                "browser": asdict(self._browser()),
            }
            await tx.execute(mcp_oauth_rows.sql.forget_starts, server_id, admin.user_id)
            sealed = mcp_oauth_rows.sealed_flow(self._house.sealer, digest, flow)
            values = (digest, server_id, admin.user_id, sealed, START_LIFE_S)
            expires_at = await tx.fetchval(mcp_oauth_rows.sql.start, *values)
            data = {"name": server["name"], "issuer": begun.login.issuer}
            kind = Kind.SERVER_AUTHORIZATION_STARTED
            await audit.record(tx, kind, actor=admin.user_id, subject=server_id, data=data)
        return Started(begun.url, expires_at)

    async def finish_server_login(self, state: str, *, code: str | None, iss: str | None, error: str | None) -> str:
        """Take a browser's answer and return the server's name. Its state, good for one use, is all that admits it."""
        from agent.tools import mcp_oauth_flow as flows
        from agent.tools.mcp_oauth_web import web_to

        started, flow = await self._taken(state)
        login, browser = Login(**flow["login"]), flows.Browser(**flow["browser"])
        try:
            flows.check_answer(login, iss)
        except NotLoggedIn as refused:
            raise WrongIssuer(f"Nothing was authorized: {refused.message}. {_AGAIN}") from refused
        if error is not None or not code:
            said = error if error and _CODE.fullmatch(error) else "it gave no code"
            raise AuthorizationRefused(f"Nothing was authorized: the authorization server said {said}. {_AGAIN}")
        server_id = started["server_id"]
        async with self._database.transaction() as tx:
            server, row, settings = await self._login_rows(tx, server_id)
            _unchanged(server, row, login, flow)
        try:
            async with web_to(login.url, self._house.keeping.egress) as web:
                made = await flows.exchanged(web, login, settings, browser, code=code, verifier=flow["verifier"])
        except NotLoggedIn as failed:
            raise LoginFailed(f"Nothing was authorized: {failed.message}. {_AGAIN}") from failed
        async with self._database.transaction() as tx:
            server, row, _ = await self._login_rows(tx, server_id)
            _unchanged(server, row, login, flow)
            admin = await self._still_admin(tx, started["started_by"])
            sealed = mcp_oauth_rows.sealed_login(self._house.sealer, server_id, made)
            values = (server_id, sealed, made.issuer, mcp_oauth_rows.renew_in_s(made), admin.user_id)
            await tx.execute(mcp_oauth_rows.sql.authorize, *values)
            data = {"name": server["name"], "issuer": made.issuer, "scope": (made.token or {}).get("scope")}
            await audit.record(tx, Kind.SERVER_AUTHORIZED, actor=admin.user_id, subject=server_id, data=data)
        return server["name"]

    def client_document(self) -> dict[str, Any]:
        """Return who opsagent is, for authorization servers that take the document's address as a client id."""
        from agent.tools.mcp_oauth_flow import client_metadata

        browser = self._browser()
        known = client_metadata(browser).model_dump(mode="json", exclude_none=True)
        return {**known, "client_id": browser.document, "token_endpoint_auth_method": "none"}

    async def _taken(self, state: str) -> tuple[Any, dict[str, Any]]:
        """Use a state up, and return what was kept for it."""
        async with self._database.transaction() as tx:
            started = await tx.fetchrow(mcp_oauth_rows.sql.take_start, _digest(state))
        if started is None:
            raise UnknownAuthorization
        if started["expired"]:
            raise AuthorizationExpired(f"This authorization was started more than ten minutes ago. {_AGAIN}")
        async with self._database.connection() as connection:
            await self._still_admin(connection, started["started_by"])
        try:
            return started, mcp_oauth_rows.opened_flow(self._house.sealer, started)
        except CannotOpen as error:
            raise SecretsUnreadable(f"What was kept of this authorization can't be used: {error}. {_AGAIN}") from error

    async def _still_admin(self, tx: Tx, user_id: UUID) -> Principal:
        admin = await users.read(tx, user_id)
        if admin.disabled or admin.role is not Role.ADMIN:
            raise AdminsOnly("Who started this authorization is no admin any more. Nothing was authorized.")
        return admin

    async def _begun(self, server: Any, settings: OAuthSettings, known: Login | None) -> "Begun":
        from agent.tools import mcp_oauth_flow as flows
        from agent.tools.mcp_oauth_web import web_to

        policy, url = self._house.keeping.egress, server["url"]
        try:
            async with web_to(url, policy) as web:
                return await flows.begin(
                    web,
                    url,
                    settings,
                    self._browser(),
                    known=known,
                    is_sse=server["transport"] == "sse",
                    policy=policy,
                )
        except NotLoggedIn as error:
            raise LoginFailed(f"The server {error.message}.") from error

    async def _login_rows(self, tx: Tx, server_id: UUID) -> tuple[Any, Any, OAuthSettings]:
        """Lock both rows of a server that people authorize; raises what is in the way."""
        server = await self._own_row(tx, server_id)
        await tx.fetchrow(mcp_oauth_rows.sql.lock, server_id)
        row = await tx.fetchrow(mcp_oauth_rows.sql.read, server_id)
        if row is None or row["grant_type"] != Grant.AUTHORIZATION_CODE:
            raise NothingToAuthorize(
                f"{mcp_rows.registered(server).name} takes no authorization by a person: give it `oauth` with the "
                "grant authorization_code first."
            )
        try:
            return server, row, mcp_oauth_rows.settings_of(row, self._house.sealer)
        except CannotOpen as error:
            raise SecretsUnreadable(f"Its stored secrets can't be used: {error}. Set `oauth` again.") from error

    def _opened(self, row: Any, url: str) -> Login | None:
        try:
            return mcp_oauth_rows.login_of(row, self._house.sealer, url)
        except CannotOpen:
            # What can't be read is replaced by what this authorization brings.
            return None

    def _browser(self) -> "Browser":
        from agent.tools.mcp_oauth_flow import Browser

        base = self._house.public_url
        return Browser(redirect=base + CALLBACK, document=base + DOCUMENT)


def _unchanged(server: Any, row: Any, login: Login, flow: dict[str, Any]) -> None:
    if server["url"] != login.url or row["generation"] != flow["generation"]:
        raise LoginChanged(f"The server was changed since this authorization was started. {_AGAIN}")


def _digest(state: str) -> bytes:
    return hashlib.sha256(state.encode("utf-8", "surrogatepass")).digest()
