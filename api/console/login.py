"""How people get into the console: a one-time token becomes a signed cookie."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence

from pydantic import SecretStr

COOKIE = "opsagent_console"
COOKIE_LIFE_S = 12 * 3600
TOKEN_LIFE_S = 15 * 60
_KEPT_TOKENS = 1_000


class OneTimeTokens:
    """Tokens of this process that each open the console once, within 15 minutes."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[bytes, float] = {}

    def issue(self) -> str:
        self._forget()
        token = secrets.token_urlsafe(32)
        self._until[_digest(token)] = self._now() + TOKEN_LIFE_S
        return token

    def redeem(self, token: str) -> bool:
        """Return whether the token was good; it is not good again."""
        until = self._until.pop(_digest(token), None)
        return until is not None and self._now() < until

    def _forget(self) -> None:
        now = self._now()
        kept = [(digest, until) for digest, until in self._until.items() if until > now]
        self._until = dict(kept[-_KEPT_TOKENS + 1 :])


class ConsoleCookie:
    """The console's session: an expiry, signed. A changed API key ends all of them."""

    def __init__(
        self, signing: Sequence[SecretStr], api_key: SecretStr, *, now: Callable[[], float] = time.time
    ) -> None:
        if not signing:
            raise ValueError("The console's cookie needs a signing key.")
        self._keys = [_derived(key.get_secret_value(), api_key.get_secret_value()) for key in signing]
        self._now = now

    def issue(self) -> str:
        body = f"v1.{int(self._now()) + COOKIE_LIFE_S}.{secrets.token_urlsafe(12)}"
        return f"{body}.{_signature(self._keys[0], body)}"

    def is_valid(self, value: str) -> bool:
        body, _, signature = value.rpartition(".")
        given = signature.encode("utf-8", "surrogateescape")
        if not any(hmac.compare_digest(_signature(key, body).encode(), given) for key in self._keys):
            return False
        _, until, _ = body.split(".")
        return self._now() < int(until)


def _derived(signing: str, api_key: str) -> bytes:
    # Not the secret itself: what signs cookies signs nothing else.
    return hmac.digest(signing.encode(), b"opsagent console cookie\0" + _digest(api_key), "sha256")


def _signature(key: bytes, body: str) -> str:
    return hmac.new(key, body.encode("utf-8", "surrogateescape"), "sha256").hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
