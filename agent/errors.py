"""The five kinds of refusal; a door owns one table from kind to rendering."""


class Refusal(Exception):
    """A request that is answered with a reason: the message is a sentence for the person who asked.

    `code` is stable: programs branch on it, people read the message.
    """

    code = "refused"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(Refusal):
    """There is no such thing, or it is somebody else's."""

    code = "not_found"


class NotAllowed(Refusal):
    """The principal may not do this."""

    code = "not_allowed"


class Conflict(Refusal):
    """What is stored contradicts the request."""

    code = "conflict"


class Expired(Refusal):
    """It was there, and its time is over."""

    code = "expired"


class Invalid(Refusal):
    """The request itself is wrong."""

    code = "invalid"
