"""A real OAuth authorization server and an MCP server behind it, on loopback sockets, with behaviour and a memory."""

import asyncio
import base64
import hashlib
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import httpx
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

SCOPE = "tools"


@dataclass
class Client:
    """A client that the authorization server knows."""

    client_id: str
    secret: str | None
    redirects: list[str] = field(default_factory=list[str])


@dataclass
class Grant:
    """What was granted, once: a refresh token that comes a second time ends all of it."""

    client_id: str
    resource: str | None
    scope: str | None
    access: set[str] = field(default_factory=set[str])
    refresh: str | None = None
    used: set[str] = field(default_factory=set[str])


@dataclass
class Issuer:
    """An authorization server: metadata, registration, PKCE, rotating refresh tokens with reuse detection."""

    url: str = ""
    clients: dict[str, Client] = field(default_factory=dict[str, Client])
    grants: list[Grant] = field(default_factory=list[Grant])
    codes: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """What came to the token endpoint."""
    visits: list[str] = field(default_factory=list[str])
    secrets: set[str] = field(default_factory=set[str])
    """All that it ever gave out."""
    lifetime: int | None = 3600
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """Said in its metadata instead of the truth."""
    iss: str | None = None
    """Said as `iss` instead of the truth."""
    refuses: str | None = None
    """The error with which a person, or somebody else, said no."""
    status: int | None = None
    """What the token endpoint answers to everything."""
    gate: asyncio.Event | None = None
    """The token endpoint answers once this is set."""

    def register(self, *redirects: str, secret: str | None = None) -> Client:
        """Have a client that its operator registered by hand."""
        client = Client(f"client-{len(self.clients) + 1}", secret, list(redirects))
        self.clients[client.client_id] = client
        return client

    def expire(self) -> None:
        """End every access token before its time."""
        for grant in self.grants:
            grant.access.clear()

    def revoke(self) -> None:
        self.grants.clear()

    def grant_of(self, token: str) -> Grant | None:
        return next((grant for grant in self.grants if token in grant.access), None)

    def count(self, grant_type: str) -> int:
        return sum(form.get("grant_type") == grant_type for form in self.asked)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self._told),
                Route("/register", self._registered, methods=["POST"]),
                Route("/authorize", self._authorized),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    async def _told(self, request: Request) -> Response:
        self.visits.append(request.url.path)
        told = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        return JSONResponse({**told, **self.metadata})

    async def _registered(self, request: Request) -> Response:
        self.visits.append(request.url.path)
        asked = await request.json()
        client = self.register(*asked["redirect_uris"], secret=self._secret("registered"))
        said = {"client_id": client.client_id, "client_secret": client.secret, "redirect_uris": client.redirects}
        return JSONResponse({**said, "token_endpoint_auth_method": "client_secret_post"}, 201)

    async def _authorized(self, request: Request) -> Response:
        self.visits.append(request.url.path)
        asked = dict(request.query_params)
        client = self.clients.get(asked["client_id"])
        if client is None and asked["client_id"].startswith("https://"):
            client = self.clients[asked["client_id"]] = Client(asked["client_id"], None, [asked["redirect_uri"]])
        if client is None or asked["redirect_uri"] not in client.redirects or "code_challenge" not in asked:
            return Response("no", 400)
        answer = {"state": asked["state"], "iss": self.iss or self.url}
        if self.refuses:
            answer["error"] = self.refuses
        else:
            answer["code"] = self._secret("code")
            self.codes[answer["code"]] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        self.visits.append(request.url.path)
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        self.asked.append(form)
        if self.gate:
            await self.gate.wait()
        if self.status:
            return JSONResponse({"error": "server_error", "error_description": str(form)}, self.status)
        client = self._known(request, form)
        if client is None:
            return JSONResponse({"error": "invalid_client", "error_description": str(form)}, 401)
        match form["grant_type"]:
            case "client_credentials" if client.secret:
                return self._granted(self._grant(client, form), with_refresh=False)
            case "authorization_code":
                kept = self.codes.pop(form["code"], None)
                proof = hashlib.sha256(form["code_verifier"].encode()).digest()
                if (
                    kept is not None
                    and kept["client_id"] == client.client_id
                    and kept["redirect_uri"] == form["redirect_uri"]
                    and kept["code_challenge"] == base64.urlsafe_b64encode(proof).decode().rstrip("=")
                ):
                    return self._granted(self._grant(client, kept))
            case "refresh_token":
                token = form["refresh_token"]
                grant = next((grant for grant in self.grants if token in {grant.refresh, *grant.used}), None)
                if grant is not None and grant.client_id == client.client_id:
                    if token == grant.refresh:
                        grant.used.add(token)
                        return self._granted(grant)
                    self.grants.remove(grant)
            case _:
                pass
        return JSONResponse({"error": "invalid_grant", "error_description": str(form)}, 400)

    def _known(self, request: Request, form: dict[str, str]) -> Client | None:
        client_id, secret = form.get("client_id", ""), form.get("client_secret")
        scheme, _, body = request.headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            client_id, _, secret = base64.b64decode(body).decode().partition(":")
            client_id, secret = unquote(client_id), unquote(secret)
        client = self.clients.get(client_id)
        return client if client is not None and client.secret == secret else None

    def _grant(self, client: Client, asked: dict[str, str]) -> Grant:
        grant = Grant(client.client_id, asked.get("resource"), asked.get("scope"))
        self.grants.append(grant)
        return grant

    def _granted(self, grant: Grant, *, with_refresh: bool = True) -> Response:
        grant.access = {self._secret("access")}
        said: dict[str, Any] = {"access_token": next(iter(grant.access)), "token_type": "Bearer"}
        if with_refresh:
            said["refresh_token"] = grant.refresh = self._secret("refresh")
        if self.lifetime is not None:
            said["expires_in"] = self.lifetime
        return JSONResponse(said)

    def _secret(self, kind: str) -> str:
        made = f"obviously-fake-{kind}-{secrets.token_hex(8)}"
        self.secrets.add(made)
        return made


@dataclass
class Protected:
    """An MCP server that takes only tokens of its issuer that were made for it."""

    issuer: Issuer
    path: str = "/mcp"
    url: str = ""
    seen: list[str] = field(default_factory=list[str])
    """Every token that came."""
    refused: int = 0
    visits: list[str] = field(default_factory=list[str])
    resource: dict[str, Any] = field(default_factory=dict[str, Any])
    """Said of itself instead of the truth."""
    leads_to: str | None = None
    """Where its refusal sends the client instead of to its own metadata."""
    is_deaf: bool = False
    """Whether it refuses even tokens that are good."""

    def wrap(self, app: Any) -> Any:
        """Return the app behind its guard."""

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            origin = self.url.removesuffix(self.path)
            self.visits.append(scope["path"])
            if scope["path"].startswith("/.well-known/oauth-protected-resource"):
                told = {"resource": self.url, "authorization_servers": [self.issuer.url], "scopes_supported": [SCOPE]}
                await JSONResponse({**told, **self.resource})(scope, receive, send)
                return
            token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
            grant = self.issuer.grant_of(token)
            if token:
                self.seen.append(token)
            if grant is None or grant.resource != self.url or self.is_deaf:
                self.refused += 1
                where = self.leads_to or f"{origin}/.well-known/oauth-protected-resource{self.path}"
                challenge = {"WWW-Authenticate": f'Bearer error="invalid_token", resource_metadata="{where}"'}
                await Response("no", 401, challenge)(scope, receive, send)
                return
            await app(scope, receive, send)

        return guarded


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """Serve an app on loopback; yields the port."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    async with listening(issuer.app()) as port:
        issuer.url = f"http://127.0.0.1:{port}"
        yield issuer


@asynccontextmanager
async def protected(issuer: Issuer, *, sse: bool = False) -> AsyncIterator[Protected]:
    """An MCP server with the tools `echo`, `tell` (which tells its caller's token) and `wait`."""
    server = MCPServer("protected", log_level="CRITICAL")

    @server.tool()
    def echo(text: str) -> str:
        """Give the text back."""
        return text

    @server.tool()
    def tell(text: str, ctx: Context) -> str:  # type: ignore[type-arg]
        """Tell what the caller was so careless to show."""
        return f"{text}: {dict(ctx.headers or {}).get('authorization')}"

    @server.tool()
    async def wait(seconds: float) -> str:
        """Answer late."""
        await asyncio.sleep(seconds)
        return "waited"

    local = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    guard = Protected(issuer, "/sse" if sse else "/mcp")
    app = server.sse_app(transport_security=local) if sse else server.streamable_http_app(transport_security=local)
    async with listening(guard.wrap(app)) as port:
        guard.url = f"http://127.0.0.1:{port}{guard.path}"
        yield guard


async def consent(authorization_url: str) -> str:
    """Say yes as a person does; return the address that the browser is sent back to."""
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(authorization_url)
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
