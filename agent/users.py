"""Users as rows: reading who acts, and who is in which group."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

from agent.errors import NotFound
from agent.ports import ChatProfile, DirectoryUnavailable, GroupDirectory, ProfileDirectory
from agent.types import ChatUser, Principal, Role
from db import queries
from db.database import Database, Tx

sql = queries.load("users")


class UserNotFound(NotFound):
    code = "user_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such user.")


API_KEY_USER = UUID("00000000-0000-4000-8000-000000000001")
GROUP_FRESH_S = 60


def api_key_principal() -> Principal:
    """The built-in admin whom the API key acts as."""
    return Principal(API_KEY_USER, "api-key", Role.ADMIN, display_name="API key")


def principal(row: Any) -> Principal:
    return Principal(
        user_id=row["user_id"],
        username=row["username"],
        role=Role(row["role"]),
        chat_team=row["slack_team_id"],
        chat_user=row["slack_user_id"],
        external=row["external"],
        disabled=row["disabled"],
        display_name=row["display_name"],
    )


async def of_chat(tx: Tx, user: ChatUser) -> Principal:
    """Return the user behind a chat identity; their row is made on first contact."""
    row = await tx.fetchrow(sql.find_chat, user.team, user.user)
    if row is None or (user.external and not row["external"]):
        row = await tx.fetchrow(
            sql.of_chat, uuid4(), f"slack:{user.team}:{user.user}", user.team, user.user, user.external
        )
    return principal(row)


async def read(tx: Tx, user_id: UUID) -> Principal:
    """Raises NotFound."""
    row = await tx.fetchrow(sql.read, user_id)
    if row is None:
        raise UserNotFound
    return principal(row)


async def hold(tx: Tx, user_id: UUID) -> None:
    """Keep a user from being merged into another until the transaction's end; raises UserNotFound."""
    row = await tx.fetchrow(sql.hold, user_id)
    if row is None or row["merged_into"] is not None:
        raise UserNotFound


async def unknown_names(tx: Tx, names: list[str]) -> list[str]:
    """Return those of the names that no account has."""
    known = (
        {row["name"] for row in await tx.fetch(sql.known_names, [name.lower() for name in names])} if names else set()
    )
    return [name for name in names if name.lower() not in known]


async def named(tx: Tx, usernames: list[str], chat_users: list[str]) -> list[Principal]:
    """Return the users of these names or chat ids."""
    rows = await tx.fetch(sql.named, [name.lower() for name in usernames], chat_users)
    return [principal(row) for row in rows]


async def of_role(tx: Tx, role: str) -> list[Principal]:
    """Return people of a role above member whom a chat platform can mention; not all of very many."""
    return [principal(row) for row in await tx.fetch(sql.of_role, role)]


async def read_many(tx: Tx, user_ids: Iterable[UUID]) -> dict[UUID, Principal]:
    rows = await tx.fetch(sql.read_many, list(set(user_ids)))
    return {row["user_id"]: principal(row) for row in rows}


async def resolve(tx: Tx, by: Principal | ChatUser) -> Principal:
    """Return who acts, with the role as it stands in this transaction."""
    return await of_chat(tx, by) if isinstance(by, ChatUser) else await read(tx, by.user_id)


async def refresh_profile(database: Database, directory: ProfileDirectory | None, user_id: UUID) -> None:
    """Look up name, email and standing of a chat user, unless that was done lately.

    Raises DirectoryUnavailable where nothing is known of them yet and the platform can't be asked.
    """
    async with database.connection() as connection:
        row = await connection.fetchrow(sql.needs_profile, user_id)
        if row is None or directory is None:
            return
    try:
        profile: ChatProfile = await directory.profile(row["slack_team_id"], row["slack_user_id"])
    except DirectoryUnavailable:
        if row["unknown"]:
            raise
        return
    async with database.connection() as connection:
        await connection.execute(
            sql.save_profile,
            user_id,
            profile.display_name,
            profile.email,
            profile.is_guest or profile.is_bot,
            profile.deleted,
        )


async def fresh_groups(
    database: Database, directory: GroupDirectory | None, group_ids: Iterable[str]
) -> dict[str, frozenset[str]]:
    """Return the members of these groups, none older than 60 s.

    Raises DirectoryUnavailable where the platform must be asked and can't be. Never called inside a transaction.
    """
    groups: dict[str, frozenset[str]] = {}
    for group_id in group_ids:
        async with database.connection() as connection:
            row = await connection.fetchrow(sql.read_group, group_id, GROUP_FRESH_S)
        if row is None or not row["fresh"]:
            if directory is None:
                raise DirectoryUnavailable(f"Nothing here can tell who is in the user group {group_id}.")
            members = await directory.members(group_id)
            async with database.connection() as connection:
                await connection.execute(sql.save_group, group_id, members)
        else:
            members = row["members"]
        groups[group_id] = frozenset(members)
    return groups
