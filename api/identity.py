"""Who is calling: an API key, or the console's cookie, becomes a principal."""

import hashlib
import hmac
from dataclasses import dataclass

from fastapi import Depends
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer
from pydantic import SecretStr
from starlette.requests import Request

from agent.service import AgentService
from agent.types import Principal
from api.console.login import COOKIE, ConsoleCookie
from api.problems import Problem

CSRF_HEADER = "X-Requested-With"
CSRF_VALUE = "opsagent"
_SAFE = {"GET", "HEAD", "OPTIONS"}

SECURITY = [
    Depends(HTTPBearer(scheme_name="bearer", description="The API key.", auto_error=False)),
    Depends(APIKeyHeader(name="X-API-Key", scheme_name="api_key", description="The API key.", auto_error=False)),
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


class Identity:
    """Tells principals by what a request carries; whatever it can't tell is 401."""

    def __init__(self, service: AgentService, keys: KeyRing, cookie: ConsoleCookie) -> None:
        self._service = service
        self._api_key = keys.api_key
        self._cookie = cookie

    async def principal(self, request: Request) -> Principal:
        """Return who calls, or raise a 401; a wrong credential is never made up for by another one."""
        if (credential := _credential(request)) is not None:
            return self._of_credential(credential)
        if (cookie := request.cookies.get(COOKIE)) is not None:
            return self._of_cookie(cookie, request)
        raise _unauthorized("Say who you are: send the API key as X-API-Key, or as Authorization: Bearer.")

    def is_api_key(self, credential: str) -> bool:
        """Compare in constant time, also where the lengths differ."""
        return hmac.compare_digest(_digest(credential), _digest(self._api_key.get_secret_value()))

    def _of_credential(self, credential: str) -> Principal:
        if not self.is_api_key(credential):
            raise _unauthorized("This key is not known here: compare it with the operator's API_KEY.")
        return self._service.api_key_principal()

    def _of_cookie(self, cookie: str, request: Request) -> Principal:
        if not self._cookie.is_valid(cookie):
            raise _unauthorized("The console's session is over: sign in again.", code="session_over")
        if request.method not in _SAFE and request.headers.get(CSRF_HEADER) != CSRF_VALUE:
            detail = (
                f"Calls that change something with the console's cookie need the header {CSRF_HEADER}: {CSRF_VALUE}."
            )
            raise Problem(403, "csrf_header_missing", detail)
        return self._service.api_key_principal()


def _credential(request: Request) -> str | None:
    if (key := request.headers.get("x-api-key")) is not None:
        return key
    if (header := request.headers.get("authorization")) is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise _unauthorized("Authorization takes the form: Bearer <key>.")
    return token.strip()


def _unauthorized(detail: str, *, code: str = "unauthorized") -> Problem:
    return Problem(401, code, detail, headers={"WWW-Authenticate": 'Bearer realm="opsagent"'})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
