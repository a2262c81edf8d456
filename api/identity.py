"""Who is calling: an API key, an access token, a service token or the console's cookie becomes a principal."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from fastapi import Depends
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from agent.identities import Authenticated
from agent.service import AgentService
from agent.tokens import BadToken
from api.console.login import COOKIE, ConsoleCookie
from api.problems import Problem

CSRF_HEADER = "X-Requested-With"
CSRF_VALUE = "opsagent"
Scope = Literal["read", "chat", "approve", "admin"]
_SAFE = {"GET", "HEAD", "OPTIONS"}
_LONGEST = 4_096
_WAYS = "The API key, an access token from `POST /api/users/login`, or a service token (`ops_...`)."

SECURITY = [
    Depends(HTTPBearer(scheme_name="bearer", description=_WAYS, auto_error=False)),
    Depends(APIKeyHeader(name="X-API-Key", scheme_name="api_key", description=_WAYS, auto_error=False)),
    Depends(
        APIKeyCookie(
            name=COOKIE,
            scheme_name="console",
            description=f"The console's session; calls that change something also need {CSRF_HEADER}: {CSRF_VALUE}.",
            auto_error=False,
        )
    ),
]
"""For OpenAPI only: they document the schemes, `Identity` checks them."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of this door; `signing` newest first: the first signs, all of them verify."""

    api_key: SecretStr
    signing: tuple[SecretStr, ...]


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller showed; a long-lived connection checks it again."""

    value: str
    is_cookie: bool = False


class Identity:
    """Tells principals by what a request carries; whatever it can't tell is 401."""

    def __init__(self, service: AgentService, keys: KeyRing, cookie: ConsoleCookie) -> None:
        self._service = service
        self._api_key = _digest(keys.api_key.get_secret_value())
        self._cookie = cookie

    async def caller(self, request: HTTPConnection, method: str) -> Authenticated:
        """Return who calls, or raise a 401; a wrong credential is never made up for by another one."""
        credential = shown(request)
        if credential is None:
            raise nobody()
        found = await self.check(credential)
        if credential.is_cookie and method not in _SAFE and request.headers.get(CSRF_HEADER) != CSRF_VALUE:
            detail = (
                f"Calls that change something with the console's cookie need the header {CSRF_HEADER}: {CSRF_VALUE}."
            )
            raise Problem(403, "csrf_header_missing", detail)
        return found

    async def check(self, credential: Credential) -> Authenticated:
        """Return who this is now, or raise a 401 that tells no more than that."""
        if credential.is_cookie:
            if not self._cookie.is_valid(credential.value):
                raise unauthorized("The console's session is over: sign in again.", code="session_over")
            return self._operator()
        if self.is_api_key(credential.value):
            return self._operator()
        try:
            if not 0 < len(credential.value) <= _LONGEST:
                raise BadToken
            return await self._service.authenticate(credential.value)
        except BadToken:
            detail = "This key or token is not valid here, or not any more: log in again, or ask for a new one."
            raise unauthorized(detail) from None

    def comes_from_console(self, request: HTTPConnection) -> bool:
        """Return whether a page of the console calls: with its cookie, and the header that no other site can send.

        Who calls may be said by a token beside it: someone who has just entered their password there.
        """
        cookie = request.cookies.get(COOKIE)
        return cookie is not None and self._cookie.is_valid(cookie) and request.headers.get(CSRF_HEADER) == CSRF_VALUE

    def is_api_key(self, credential: str) -> bool:
        """Compare in constant time, also where the lengths differ."""
        return hmac.compare_digest(_digest(credential), self._api_key)

    def _operator(self) -> Authenticated:
        return Authenticated(self._service.api_key_principal(), None, None)


def shown(request: HTTPConnection) -> Credential | None:
    """Return what the caller shows; raises a 401 for an Authorization that isn't Bearer, or for two keys at once."""
    key, bearer = request.headers.get("x-api-key"), _bearer(request.headers.get("authorization"))
    if key is not None and bearer is not None and key != bearer:
        raise unauthorized("X-API-Key and Authorization say different things: send one of them.")
    if (given := key if key is not None else bearer) is not None:
        return Credential(given)
    cookie = request.cookies.get(COOKIE)
    return None if cookie is None else Credential(cookie, is_cookie=True)


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise unauthorized("Authorization takes the form: Bearer <key>.")
    return token.strip()


def is_same_site(request: HTTPConnection) -> bool:
    """Return whether a browser made this request for a page of ours."""
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")


def allow(caller: Authenticated, scope: Scope) -> None:
    """Raise a 403 where the caller's token was not made for this."""
    if caller.scopes is not None and scope not in caller.scopes:
        have = ", ".join(sorted(caller.scopes))
        detail = f"This token lacks the scope {scope!r} (it has: {have}). Use another one, or ask an admin for it."
        raise Problem(403, "scope_missing", detail)


def nobody() -> Problem:
    return unauthorized("Say who you are: send a key or token as X-API-Key, or as Authorization: Bearer.")


def unauthorized(detail: str, *, code: str = "unauthorized") -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": 'Bearer realm="opsagent"'})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
