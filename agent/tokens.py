"""Tokens: short signed ones for people who logged in, long opaque ones for programs. Pure but for the random bytes."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt

ISSUER = "opsagent"
AUDIENCE = "opsagent-api"
LIFE = timedelta(hours=1)
SERVICE_PREFIX = "ops_"
_ALGORITHM = "HS256"


class BadToken(Exception):
    """The token is not one of ours, or not any more; the message says no more than that."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says; the user's row decides whether it still counts."""

    user_id: UUID
    version: int
    expires_at: datetime
    login_at: datetime | None
    """When its password was entered; None where the token doesn't say."""


class Signer:
    """Signs with the newest key and reads what any of them signed, so a rotation logs nobody out."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = {key_id(key): _derived(key) for key in keys}
        self._newest = next(iter(self._keys))

    def sign(self, user_id: UUID, version: int, *, now: datetime) -> str:
        """Return a token for who has just entered a password."""
        claims = {
            "sub": str(user_id),
            "ver": version,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "auth_time": int(now.timestamp()),
            "exp": now + LIFE,
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(claims, self._keys[self._newest], algorithm=_ALGORITHM, headers={"kid": self._newest})

    def read(self, token: str) -> Claims:
        """Raises BadToken."""
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                raise BadToken("This token is not valid; log in again.")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": ["exp", "iat", "aud", "iss", "sub", "ver"]},
            )
            expires_at = datetime.fromtimestamp(int(claims["exp"]), tz=UTC)
            login_at = datetime.fromtimestamp(int(claims["auth_time"]), tz=UTC) if "auth_time" in claims else None
            return Claims(UUID(claims["sub"]), int(claims["ver"]), expires_at, login_at)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise BadToken("This token is not valid or has expired; log in again.") from error


def new_service_token() -> str:
    """Return a service token: 256 random bits behind a prefix that secret scanners can find."""
    return SERVICE_PREFIX + secrets.token_urlsafe(32)


def hashed(secret: str) -> bytes:
    """Return what is stored of a random token; one with 256 bits needs no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def key_id(key: str) -> str:
    return hashlib.sha256(b"opsagent key id\x00" + key.encode()).hexdigest()[:12]


def _derived(key: str) -> bytes:
    return hashlib.sha256(b"opsagent access tokens\x00" + key.encode()).digest()
