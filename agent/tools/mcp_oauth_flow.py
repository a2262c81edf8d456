"""The OAuth requests themselves: the SDK's providers, each request of theirs sent through `Web`."""

import re
import secrets
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import httpx2
from mcp.client.auth import OAuthClientProvider, OAuthFlowError, OAuthRegistrationError, OAuthTokenError, PKCEParameters
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.auth.utils import (
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    handle_token_response_scopes,
    issuers_match,
    validate_authorization_response_iss,
)
from mcp.shared.auth import (
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)
from pydantic import AnyUrl, ValidationError

from agent.egress import EgressPolicy, EgressRefused, check
from agent.tools.mcp_oauth import Login, NotLoggedIn, OAuthSettings
from agent.tools.mcp_oauth_web import Web

_CODE = re.compile(r"[a-z_]{1,40}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,16000}")
_NAME = "opsagent"


@dataclass(frozen=True, slots=True)
class Begun:
    """An authorization to be given at `url`: `state` comes back with it, `verifier` proves that it was us who asked."""

    url: str
    state: str
    verifier: str
    login: Login


@dataclass(frozen=True, slots=True)
class Browser:
    """Where the person's browser brings the code, and where the authorization server may read who we are."""

    redirect: str
    document: str

    @property
    def client_id(self) -> str | None:
        """The document's address as a client id, which has to be https."""
        return self.document if self.document.startswith("https://") else None


class _Memory:
    """The SDK's storage, for the length of one run: what lasts is stored by whoever runs it."""

    def __init__(self, client: OAuthClientInformationFull | None) -> None:
        self._client = client

    async def get_tokens(self) -> OAuthToken | None:
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Nothing: tokens are taken from the answer."""

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class _Provider(OAuthClientProvider):
    """The SDK's provider, stopped where the grant itself begins and taken up again by any process."""

    def __init__(
        self, url: str, client: OAuthClientInformationFull | None, browser: Browser | None, settings: OAuthSettings
    ) -> None:
        self.goal = httpx2.Request("GET", url)
        self._issuer = settings.issuer
        super().__init__(
            url, client_metadata(browser), _Memory(client), client_metadata_url=browser.client_id if browser else None
        )

    async def _perform_authorization(self) -> httpx2.Request:
        return self.goal

    def _select_authorization_server(self, advertised: list[str]) -> str:
        wanted = self._issuer
        return next((server for server in advertised if wanted and issuers_match(server, wanted)), advertised[0])

    def resume(self, login: Login) -> None:
        _resume(self, login)
        self.context.client_info = OAuthClientInformationFull.model_validate(login.client)

    async def refresh(self, token: OAuthToken) -> httpx2.Request:
        self.context.current_tokens = token
        return await self._refresh_token()

    async def exchange(self, code: str, verifier: str) -> httpx2.Request:
        return await self._exchange_token_authorization_code(code, verifier)


class _ClientCredentials(ClientCredentialsOAuthProvider):
    async def ask(self, login: Login) -> httpx2.Request:
        await self._initialize()
        _resume(self, login)
        return await self._perform_authorization()


def _resume(provider: OAuthClientProvider, login: Login) -> None:
    context = provider.context
    context.oauth_metadata = OAuthMetadata.model_validate(login.metadata) if login.metadata else None
    context.protected_resource_metadata = (
        ProtectedResourceMetadata.model_validate(login.resource) if login.resource else None
    )


def client_metadata(browser: Browser | None) -> OAuthClientMetadata:
    """Return what authorization servers are told of opsagent."""
    if browser is None:
        return OAuthClientMetadata(redirect_uris=None, grant_types=["client_credentials"])
    is_web = browser.redirect.startswith("https://")
    return OAuthClientMetadata(
        redirect_uris=[AnyUrl(browser.redirect)], client_name=_NAME, application_type="web" if is_web else "native"
    )


def _fixed_client(settings: OAuthSettings, metadata: OAuthMetadata | None) -> OAuthClientInformationFull | None:
    """Return the client that the admin registered by hand, or None."""
    if settings.client_id is None:
        return None
    return OAuthClientInformationFull(
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        token_endpoint_auth_method=_method(settings, metadata),
    )


def _method(settings: OAuthSettings, metadata: OAuthMetadata | None) -> Any:
    if settings.client_secret is None:
        return "none"
    known = metadata.token_endpoint_auth_methods_supported if metadata else None
    is_post = bool(known) and "client_secret_basic" not in known and "client_secret_post" in known
    return "client_secret_post" if is_post else "client_secret_basic"


async def _found(
    web: Web,
    url: str,
    settings: OAuthSettings,
    *,
    known: Login | None,
    is_sse: bool,
    challenge: str | None = None,
    browser: Browser | None = None,
) -> Login:
    """Find the authorization server, and be its client; raises NotLoggedIn."""
    client = _fixed_client(settings, None)
    if client is None and known and known.client and browser and browser.redirect in _redirects(known.client):
        client = OAuthClientInformationFull.model_validate(known.client)
    provider = _Provider(url, client, browser, settings)
    asked = await _challenged(web, url, settings, is_sse=is_sse, challenge=challenge)
    try:
        # Nothing is held yet, so the first that it sends is the request that the server has refused already.
        async with aclosing(provider.async_auth_flow(httpx2.Request("GET", url))) as flow:
            await anext(flow)
            outgoing = await flow.asend(asked)
            while outgoing is not provider.goal:
                outgoing = await flow.asend(await web.send(outgoing))
    except (OAuthFlowError, ValidationError, ValueError, StopAsyncIteration) as error:
        raise _why(error) from error
    context = provider.context
    metadata, resource = context.oauth_metadata, context.protected_resource_metadata
    _check_issuer(settings, known, metadata)
    methods = metadata.code_challenge_methods_supported if metadata else None
    if browser is not None and methods is not None and "S256" not in methods:
        raise NotLoggedIn("needs a login, but its authorization server does not offer PKCE with S256")
    info = _fixed_client(settings, metadata) or context.client_info
    return Login(
        url=url,
        client=info.model_dump(mode="json", exclude_none=True) if info else None,
        metadata=metadata.model_dump(mode="json", exclude_none=True) if metadata else None,
        resource=resource.model_dump(mode="json", exclude_none=True) if resource else None,
        scope=context.client_metadata.scope,
    )


async def _challenged(
    web: Web, url: str, settings: OAuthSettings, *, is_sse: bool, challenge: str | None
) -> httpx2.Response:
    """Return the refusal that the flow starts from. The admin's scope comes before any that the server asks for."""
    request = httpx2.Request("GET", url)
    if challenge is None:
        probe = httpx2.Request("GET", url, headers={"accept": "text/event-stream"}) if is_sse else _probe(url)
        answer = await web.send(probe, head_only=True)
        challenge = answer.headers.get("www-authenticate") if answer.status_code == 401 else None
    given = httpx2.Response(401, headers={"www-authenticate": challenge} if challenge else None, request=request)
    parts = {
        "resource_metadata": extract_resource_metadata_from_www_auth(given),
        "scope": settings.scope or extract_scope_from_www_auth(given),
    }
    said = ", ".join(f'{name}="{value}"' for name, value in parts.items() if value)
    return httpx2.Response(401, headers={"www-authenticate": f"Bearer {said}"}, request=request)


def _probe(url: str) -> httpx2.Request:
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    return httpx2.Request("POST", url, json=body, headers={"accept": "application/json, text/event-stream"})


def _check_issuer(settings: OAuthSettings, known: Login | None, metadata: OAuthMetadata | None) -> None:
    """A client of one authorization server is not shown to another, wherever the MCP server leads."""
    wanted = settings.issuer or (known.issuer if known and settings.client_id else None)
    if wanted is None:
        return
    found = str(metadata.issuer) if metadata else None
    if found is None or not issuers_match(found, wanted):
        raise NotLoggedIn(
            f"needs a login, but leads to another authorization server (`{_plain(found or 'an unnamed one')}`) than "
            f"its client belongs to (`{_plain(wanted)}`): if that is meant, set `oauth` anew"
        )


async def client_login(
    web: Web, url: str, settings: OAuthSettings, *, known: Login | None, is_sse: bool, challenge: str | None
) -> Login:
    """Log in by our own credentials; raises NotLoggedIn."""
    login = await _found(web, url, settings, known=known, is_sse=is_sse, challenge=challenge)
    if login.metadata is None or login.issuer is None:
        raise NotLoggedIn("needs a login, but no authorization server says how (no metadata is published)")
    provider = _ClientCredentials(
        url,
        _Memory(None),
        settings.client_id or "",
        settings.client_secret or "",
        token_endpoint_auth_method=_method(settings, OAuthMetadata.model_validate(login.metadata)),
        scope=login.scope,
        issuer=login.issuer,
    )
    try:
        request = await provider.ask(login)
    except (OAuthFlowError, ValidationError, ValueError) as error:
        raise _why(error) from error
    response = await web.send(request)
    if response.status_code not in (200, 201):
        raise NotLoggedIn(f"needs a login, which its authorization server refuses ({_refusal(response)})")
    return await _granted(response, login)


async def refreshed(web: Web, login: Login, settings: OAuthSettings) -> Login | None:
    """Renew the token; None where the authorization server does so no more. Raises NotLoggedIn."""
    if login.token is None or login.refresh_token is None or login.client is None:
        return None
    provider = _Provider(login.url, None, None, settings)
    try:
        provider.resume(login)
        request = await provider.refresh(OAuthToken.model_validate(login.token))
    except (OAuthFlowError, ValidationError, ValueError) as error:
        raise _why(error) from error
    response = await web.send(request)
    if response.status_code in (400, 401, 403):
        return None
    if response.status_code != 200:
        raise NotLoggedIn(f"needs a login, and its authorization server answers {_refusal(response)}")
    return await _granted(response, login)


async def begin(
    web: Web,
    url: str,
    settings: OAuthSettings,
    browser: Browser,
    *,
    known: Login | None,
    is_sse: bool,
    policy: EgressPolicy | None,
) -> Begun:
    """Go as far as a person is needed; raises NotLoggedIn."""
    login = await _found(web, url, settings, known=known, is_sse=is_sse, browser=browser)
    provider = _Provider(url, None, browser, settings)
    try:
        provider.resume(login)
    except ValidationError as error:
        raise _why(error) from error
    context = provider.context
    endpoint = str(context.oauth_metadata.authorization_endpoint) if context.oauth_metadata else None
    endpoint = endpoint or f"{context.get_authorization_base_url(url)}/authorize"
    if url.startswith("https:") and not endpoint.startswith("https:"):
        raise NotLoggedIn("needs a login, but leads people to an address without TLS")
    if policy:
        try:
            await check(endpoint, policy)
        except EgressRefused as error:
            raise NotLoggedIn(f"needs a login, but leads people to where tools may not go: {error.message}") from error
    pkce, state = PKCEParameters.generate(), secrets.token_urlsafe(32)
    asked = {
        "response_type": "code",
        "client_id": (login.client or {}).get("client_id"),
        "redirect_uri": browser.redirect,
        "state": state,
        "code_challenge": pkce.code_challenge,
        "code_challenge_method": "S256",
        "resource": context.get_resource_url() if context.should_include_resource_param() else None,
        "scope": login.scope,
        "prompt": "consent" if "offline_access" in (login.scope or "").split() else None,
    }
    where = httpx2.URL(endpoint).copy_merge_params({name: value for name, value in asked.items() if value is not None})
    return Begun(str(where), state, pkce.code_verifier, login)


def check_answer(login: Login, iss: str | None) -> None:
    """Raise NotLoggedIn where the answer came from another authorization server than the one that was asked."""
    metadata = OAuthMetadata.model_validate(login.metadata) if login.metadata else None
    try:
        validate_authorization_response_iss(iss, metadata)
    except OAuthFlowError as error:
        raise NotLoggedIn("the answer did not come from the authorization server that was asked") from error


async def exchanged(
    web: Web, login: Login, settings: OAuthSettings, browser: Browser, *, code: str, verifier: str
) -> Login:
    """Have the code made a token; raises NotLoggedIn."""
    provider = _Provider(login.url, None, browser, settings)
    try:
        provider.resume(login)
        request = await provider.exchange(code, verifier)
    except (OAuthFlowError, ValidationError, ValueError) as error:
        raise _why(error) from error
    response = await web.send(request)
    if response.status_code not in (200, 201):
        raise NotLoggedIn(f"the authorization server refuses the code ({_refusal(response)})")
    return await _granted(response, login)


async def _granted(response: httpx2.Response, login: Login) -> Login:
    try:
        token = await handle_token_response_scopes(response)
    except (OAuthTokenError, ValueError) as error:
        raise NotLoggedIn("needs a login, but its authorization server's answer holds no token") from error
    if not _TOKEN.fullmatch(token.access_token):
        raise NotLoggedIn("needs a login, but its authorization server's token has characters that none has")
    kept = login.token or {}
    made = token.model_dump(mode="json", exclude_none=True)
    # RFC 6749, 6: what a renewal leaves out stays as it was.
    made.setdefault("scope", kept.get("scope") or login.scope)
    if kept.get("refresh_token"):
        made.setdefault("refresh_token", kept["refresh_token"])
    return replace(login, token=made)


def _redirects(client: dict[str, Any]) -> list[str]:
    return client.get("redirect_uris") or []


def _refusal(response: httpx2.Response) -> str:
    """Say how it was refused: the status and OAuth's own code, never the server's text."""
    try:
        code = response.json().get("error")
    except (ValueError, AttributeError, RecursionError):
        code = None
    known = f", {code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""
    return f"HTTP {response.status_code}{known}"


def _why(error: BaseException) -> NotLoggedIn:
    """Return the sentence; answers' bodies, which may repeat what we sent, stay out of it."""
    match error:
        case OAuthRegistrationError():
            said = "its authorization server does not register opsagent: register a client there and give `client_id`"
        case OAuthTokenError():
            said = "its authorization server's answer can't be used"
        case OAuthFlowError():
            said = _plain(str(error))
        case _:
            said = "what it says of its authorization server can't be read"
    return NotLoggedIn(f"needs a login, which failed: {said}")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
