"""What a client may say on a live connection, and the errors it hears."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter, ValidationError

from agent.errors import Refusal
from agent.throttle import TooMany
from api.bodies import strict_json
from api.problems import Problem, places
from api.schemas import Body, Instead, MessageIn, Reason, RememberIn, Seen


class AuthCommand(Body):
    """Who speaks: the first frame where no header said so, or a fresh token before the old one expires."""

    type: Literal["auth"]
    token: str = Field(max_length=4_096)


class SayCommand(MessageIn):
    type: Literal["message"]
    idempotency_key: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$")


class DecideCommand(Body):
    type: Literal["approve", "reject"]
    approval_id: UUID
    reason: Reason | None = None
    args: dict[str, Any] | None = None
    args_digest: Seen | None = None
    instead: Instead | None = None
    remember: RememberIn | None = None


class CancelCommand(Body):
    type: Literal["cancel"]


Command = Annotated[AuthCommand | SayCommand | DecideCommand | CancelCommand, Field(discriminator="type")]
_COMMANDS: TypeAdapter[AuthCommand | SayCommand | DecideCommand | CancelCommand] = TypeAdapter(Command)


def read(frame: str) -> AuthCommand | SayCommand | DecideCommand | CancelCommand:
    """Return the command of a frame, or raise a Problem with what is wrong with it."""
    value = strict_json(frame.encode("utf-8", "surrogatepass"))
    try:
        return _COMMANDS.validate_python(value, strict=False)
    except ValidationError as error:
        wrong = places(error.errors(include_input=False, include_url=False))
        detail = f"This command doesn't fit: {wrong[0]['where'] or 'it'}: {wrong[0]['message']}."
        raise Problem(422, "bad_command", detail) from None


def refusal(error: Refusal | Problem) -> dict[str, Any]:
    """Return an error as a client hears it: without a seq, since it is no event."""
    if isinstance(error, Problem):
        return {"type": "error", "code": error.code, "detail": error.detail}
    told: dict[str, Any] = {"type": "error", "code": error.code, "detail": error.message}
    return told | ({"retry_after_s": error.retry_after_s} if isinstance(error, TooMany) else {})
