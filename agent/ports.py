"""What the agent asks of a chat platform, implemented by its door and handed in at composition."""

from dataclasses import dataclass
from typing import Protocol


class DirectoryUnavailable(Exception):
    """The chat platform could not be asked."""


@dataclass(frozen=True, slots=True)
class ChatProfile:
    """What the platform says of one of its users."""

    display_name: str | None
    email: str | None
    is_guest: bool
    is_bot: bool
    deleted: bool


class GroupDirectory(Protocol):
    async def members(self, group_id: str) -> list[str]:
        """Return the user ids in a user group, or in a channel (`channel:<id>`). Raises DirectoryUnavailable."""
        ...


class Courier(Protocol):
    async def send(self, team: str, user: str, text: str) -> None:
        """Send one person a private message. Raises DirectoryUnavailable."""
        ...


class ProfileDirectory(Protocol):
    async def profile(self, team: str, user: str) -> ChatProfile:
        """Return a user's profile. Raises DirectoryUnavailable."""
        ...
