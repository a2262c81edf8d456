"""Wire models of people, programs and the audit log."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from agent.accounts import PASSWORD_LENGTH
from agent.authentication import LONGEST_DAYS
from agent.types import Role
from api.identity import Scope
from api.schemas import A_NUMBER, Body, Out, Time

_LEAST, _MOST = PASSWORD_LENGTH

# What `\s` leaves out differs from one regex engine to the next: the rest is named.
_EMAIL = r"^[^@\s\x1c-\x1f\x85]{1,64}@[^@\s\x1c-\x1f\x85]{1,190}$"
Username = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,63}$", examples=["alice"])]
Email = Annotated[str, Field(max_length=255, pattern=_EMAIL, examples=["alice@example.com"])]
Password = Annotated[str, Field(min_length=_LEAST, max_length=_MOST, examples=["correct-horse-battery"])]
SlackUser = Annotated[str, Field(pattern="^[A-Z0-9]{2,32}$", examples=["U0123ABCD"], description="A Slack user id.")]


class UserOut(Out):
    """A user, as they and admins see it."""

    user_id: UUID
    username: str
    email: str | None
    role: Role
    disabled: bool
    display_name: str | None
    slack_team_id: str | None
    slack_user_id: str | None
    created_at: Time
    updated_at: Time


class RegisterIn(Body):
    username: Username
    email: Email
    password: Password


class LoginIn(Body):
    username: str = Field(max_length=256)
    password: str = Field(max_length=_MOST * 4)


class LoginOut(Out):
    access_token: str = Field(description="Send it as `Authorization: Bearer ...`.")
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int = Field(description="Seconds until you have to log in again.")


class ProfileIn(Body):
    """What is left out stays as it is. Roles are an admin's to give."""

    email: Email | None = None
    display_name: str | None = Field(None, min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")
    password: Password | None = Field(None, description="A new one; it ends every access token.")
    current_password: str | None = Field(None, max_length=_MOST * 4, description="Needed for a new password.")


class StandingIn(Body):
    """What is left out stays as it is."""

    role: Role | None = None
    disabled: bool | None = Field(None, strict=True, description="True: ends every token and vote at once.")


class LinkIn(Body):
    slack_user_id: SlackUser


class CodeIn(Body):
    code: str = Field(min_length=1, max_length=64, examples=["AB2CD3EF"])


class SentOut(Out):
    sent: bool = Field(description="True: the bot sent a code to that Slack user; it is good for ten minutes.")


class TokenIn(Body):
    name: str = Field(pattern=r"^[\w.:-][\w.: -]{0,79}$", examples=["ci"])
    scopes: list[Scope] = Field(min_length=1, max_length=4, description="What the token is for.")
    role: Role = Field(Role.MEMBER, description="The role of the token's own user.")
    expires_in_days: Annotated[int, Field(ge=1, le=LONGEST_DAYS), A_NUMBER] = 90


class TokenOut(Out):
    """A service token, without its secret."""

    token_id: UUID
    name: str
    user_id: UUID = Field(description="The user whom the token acts as, made for it.")
    role: Role
    scopes: list[str]
    created_at: Time
    expires_at: Time
    revoked_at: Time | None


class NewTokenOut(TokenOut):
    token: str = Field(description="The secret: shown now, and never again.")


class EntryOut(Out):
    """One line of the audit log."""

    id: int
    at: Time
    kind: str
    actor_id: UUID | None = Field(description="Null: nobody who is known, such as a failed login.")
    subject: str = Field(description="The id of what it is about.")
    data: dict[str, Any]
    hash: str = Field(description="SHA-256 over this entry and the hash of the one before it.")


class VerdictOut(Out):
    """Whether the chain is what was written."""

    ok: bool
    entries: int
    wrong: int | None = Field(description="The first entry that isn't what was written.")
    reason: str | None
