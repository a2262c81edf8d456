"""Logging in at MCP servers by OAuth: the nouns, apart from how it is done and where it is stored."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID


class Grant(StrEnum):
    """How opsagent comes to a token: by its own credentials, or by a person who allows it in a browser."""

    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """A login as an admin wants it. Without `client_id` opsagent registers itself at the authorization server.

    `issuer` is the authorization server that the client belongs to; without it, the first that is found counts.
    """

    grant: Grant
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """What was registered, found and granted, in the SDK's own JSON; it counts for `url` alone."""

    url: str
    client: dict[str, Any] | None = field(default=None, repr=False)
    metadata: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None
    scope: str | None = None
    token: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def issuer(self) -> str | None:
        return self.metadata["issuer"] if self.metadata else None

    @property
    def access_token(self) -> str | None:
        return self.token["access_token"] if self.token else None

    @property
    def refresh_token(self) -> str | None:
        return self.token.get("refresh_token") if self.token else None

    @property
    def secrets(self) -> set[str]:
        """What must be shown to nobody."""
        found = {self.access_token, self.refresh_token, (self.client or {}).get("client_secret")}
        return {secret for secret in found if secret}


class NotLoggedIn(Exception):
    """There is no token to send; the message says why, after 'the server'."""

    def __init__(self, message: str, *, needs_person: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.needs_person = needs_person


class Tokens(Protocol):
    """Where a connection gets its token."""

    @property
    def needs_person(self) -> bool:
        """Whether an admin has to authorize opsagent before any token can be had."""
        ...

    async def token(self, *, rejected: str | None = None, challenge: str | None = None) -> str:
        """Return a token that is not `rejected`; `challenge` is what came with the refusal. Raises NotLoggedIn."""
        ...

    def masked(self, text: str) -> str:
        """Return `text` without any secret of the login that this process has held."""
        ...


@dataclass(frozen=True, slots=True)
class OAuthAccess:
    """A connection's login; another generation is another connection."""

    server_id: UUID
    grant: Grant
    generation: int
    tokens: Tokens = field(compare=False, repr=False)
