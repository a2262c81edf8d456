"""The service's part for people: accounts, logins, standing, and one identity behind two doors."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from limits import RateLimitItemPerMinute

from agent import audit, tokens, users
from agent.audit import Kind
from agent.errors import Conflict, Invalid, NotAllowed, NotFound
from agent.house import Part, before, cursor_of
from agent.passwords import Passwords
from agent.ports import DirectoryUnavailable
from agent.tokens import LIFE
from agent.types import Page, Person, Principal, Role
from db import queries
from db.database import Tx

sql = queries.load("accounts")

_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,63}")
_LIKE_A_CHAT_ID = re.compile(r"[USWTBCDG](?=[A-Z0-9]*[0-9])[A-Z0-9]{2,}")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
PASSWORD_LENGTH = (10, 256)
PER_ACCOUNT = RateLimitItemPerMinute(10, 15)
"""Wrong passwords for one account in 15 minutes."""
PER_ADDRESS = RateLimitItemPerMinute(60, 15)
"""Wrong passwords from one address in 15 minutes."""
LINK_CODES = RateLimitItemPerMinute(5, 60)
CODE_LIFE_S = 600


@dataclass(frozen=True, slots=True)
class Account:
    """A user as they and admins see it."""

    user_id: UUID
    username: str
    email: str | None
    role: Role
    disabled: bool
    display_name: str | None
    slack_team_id: str | None
    slack_user_id: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def person(self) -> Person:
        return Person(self.user_id, self.username, self.display_name, self.slack_user_id)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a login gives."""

    access_token: str
    expires_in: int


class WrongCredentials(Exception):
    """The same for an unknown user, a wrong password and a disabled account."""

    message = "The username or the password is wrong."


class UsernameTaken(Conflict):
    code = "username_taken"


class BadUsername(Invalid):
    code = "bad_username"


class BadEmail(Invalid):
    code = "bad_email"


class BadPassword(Invalid):
    code = "bad_password"


class RegistrationClosed(NotAllowed):
    code = "registration_closed"


class AdminsOnly(NotAllowed):
    code = "admins_only"


class LastAdmin(Conflict):
    code = "last_admin"


class BadCode(Invalid):
    code = "bad_code"


class NoSuchChatUser(NotFound):
    code = "chat_user_not_found"


class AlreadyLinked(Conflict):
    code = "already_linked"


class LinkRefused(Conflict):
    code = "link_refused"


class Accounts(Part):
    """Users, logins, roles, and links between doors."""

    _passwords = Passwords()

    async def register(
        self, *, username: str, email: str, password: str, by: Principal | None, open_to_all: bool = False
    ) -> Account:
        """Make an account: an admin for anyone; people for themselves only where registration is open."""
        is_admin = by is not None and by.role is Role.ADMIN
        if not is_admin and not open_to_all:
            raise RegistrationClosed("Only an admin can make accounts here; ask one.")
        _check_username(username, self._house.approvers, by_admin=is_admin)
        _check_email(email)
        hashed = await self._hash(password)
        async with self._database.transaction() as tx:
            row = await tx.fetchrow(sql.create, uuid4(), username, email, hashed, Role.MEMBER.value)
            if row is None:
                raise UsernameTaken(f"The username {username!r} is taken; choose another one.")
            await audit.record(
                tx,
                Kind.USER_CREATED,
                actor=by.user_id if by else row["user_id"],
                subject=row["user_id"],
                data={"username": username},
            )
        return account(row)

    async def _hash(self, password: str) -> str:
        least, most = PASSWORD_LENGTH
        if not least <= len(password) <= most:
            raise BadPassword(f"The password must have {least} to {most} characters.")
        return await self._passwords.hash(password)

    async def login(self, username: str, password: str, *, address: str) -> AccessToken:
        """Return an access token; raises WrongCredentials, or TooMany after too many wrong ones."""
        throttle, name = self._house.throttle, username.lower()[:64]
        wait = "Too many wrong passwords; wait a few minutes and try again."
        # Counted before anything is compared: guesses that come at once must not all find room.
        await throttle.take(PER_ADDRESS, "login", f"address:{address}", message=wait)
        await throttle.take(PER_ACCOUNT, "login", f"account:{name}", message=wait)
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.credentials, name)
        right, better = await self._passwords.check(password, row["password_hash"] if row else None)
        if row is None or not right or row["disabled"]:
            await self._note_login(None, row["user_id"] if row else name, Kind.LOGIN_FAILED, address)
            raise WrongCredentials
        await throttle.forget(PER_ACCOUNT, "login", f"account:{name}")
        await throttle.give_back(PER_ADDRESS, "login", f"address:{address}")
        if better is not None:
            async with self._database.connection() as connection:
                await connection.execute(sql.rehash, row["user_id"], better)
        await self._note_login(row["user_id"], row["user_id"], Kind.LOGIN, address)
        token = self._house.signer.sign(row["user_id"], row["token_version"], now=datetime.now(UTC))
        return AccessToken(token, int(LIFE.total_seconds()))

    async def note_console_login(self, *, with_key: bool, let_in: bool, address: str) -> None:
        """Write down that somebody was, or was not, let into the console, with the API key or the link for one time."""
        data = {"address": address, "console": "api_key" if with_key else "link"}
        actor, kind = (users.API_KEY_USER, Kind.LOGIN) if let_in else (None, Kind.LOGIN_FAILED)
        async with self._database.transaction() as tx:
            await audit.record(tx, kind, actor=actor, subject=users.API_KEY_USER, data=data)

    async def _note_login(self, actor: UUID | None, subject: UUID | str, kind: Kind, address: str) -> None:
        async with self._database.transaction() as tx:
            await audit.record(tx, kind, actor=actor, subject=subject, data={"address": address})

    async def logout(self, *, by: Principal) -> None:
        """End every access token of this user, at once and on every replica."""
        async with self._database.transaction() as tx:
            await tx.execute(sql.end_tokens, by.user_id)
            await audit.record(tx, Kind.LOGOUT, actor=by.user_id, subject=by.user_id, data={})

    async def read_account(self, user_id: UUID) -> Account:
        async with self._database.connection() as connection:
            return await _read(connection, user_id)

    async def update_profile(
        self,
        *,
        by: Principal,
        email: str | None = None,
        display_name: str | None = None,
        password: str | None = None,
        current_password: str | None = None,
    ) -> Account:
        """Change one's own email, shown name or password; a new password needs the current one, and ends all tokens."""
        if email is not None:
            _check_email(email)
        hashed = await self._new_password(by, password, current_password) if password is not None else None
        async with self._database.transaction() as tx:
            found = await _read(tx, by.user_id)
            await tx.execute(
                sql.update_profile,
                by.user_id,
                email if email is not None else found.email,
                display_name if display_name is not None else found.display_name,
            )
            if hashed is not None:
                await tx.execute(sql.set_password, by.user_id, hashed)
            changed = await _read(tx, by.user_id)
            given = {"email": email, "display_name": display_name, "password": hashed}
            fields = sorted(name for name, value in given.items() if value is not None)
            await audit.record(tx, Kind.USER_CHANGED, actor=by.user_id, subject=by.user_id, data={"fields": fields})
        return changed

    async def _new_password(self, by: Principal, password: str, current: str | None) -> str:
        await self._house.throttle.take(
            PER_ACCOUNT, "password", str(by.user_id), message="Too many tries; wait a few minutes."
        )
        async with self._database.connection() as connection:
            stored = await connection.fetchval(sql.password, by.user_id)
        right, _ = await self._passwords.check(current or "", stored)
        if not right:
            raise BadPassword("The current password is wrong; send it as current_password.")
        return await self._hash(password)

    async def list_accounts(
        self, *, by: Principal, slack_user_id: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Account]:
        _admin(by)
        async with self._database.connection() as connection:
            if slack_user_id is not None:
                return Page([account(row) for row in await connection.fetch(sql.list_of_chat_user, slack_user_id)])
            rows = await connection.fetch(sql.list, *before(cursor), limit + 1)
        found = [account(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(found, cursor_of(found[-1].created_at, found[-1].user_id) if more else None)

    async def update_account(
        self, user_id: UUID, *, by: Principal, role: Role | None = None, disabled: bool | None = None
    ) -> Account:
        """Set role or standing; it counts at once, also for tokens, votes and calls about to run."""
        _admin(by)
        async with self._database.transaction() as tx:
            found = await tx.fetchrow(sql.lock, user_id)
            if found is None:
                raise users.UserNotFound
            if user_id == users.API_KEY_USER:
                raise LastAdmin("The built-in admin behind the API key can't be changed; change the API key instead.")
            row = await tx.fetchrow(
                sql.update_standing,
                user_id,
                (role or Role(found["role"])).value,
                found["disabled"] if disabled is None else disabled,
            )
            data = {
                "before": {"role": found["role"], "disabled": found["disabled"]},
                "after": {"role": row["role"], "disabled": row["disabled"]},
            }
            await audit.record(tx, Kind.USER_CHANGED, actor=by.user_id, subject=user_id, data=data)
        return account(row)

    async def send_link_code(self, slack_user_id: str, *, by: Principal) -> None:
        """Have the bot send a one-time code to this Slack user; whoever can read it there may link the two."""
        await self._house.throttle.take(LINK_CODES, "link", str(by.user_id), message="Too many codes; wait an hour.")
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.find_chat_user, slack_user_id, None)
        courier = self._house.courier
        if row is None or courier is None:
            raise NoSuchChatUser("The bot doesn't know this Slack user yet: write to it in Slack once, then try again.")
        code = "".join(secrets.choice("23456789ABCDEFGHJKMNPQRSTUVWXYZ") for _ in range(8))
        async with self._database.connection() as connection:
            await connection.execute(
                sql.save_link_code,
                by.user_id,
                tokens.hashed(code),
                row["slack_team_id"],
                row["slack_user_id"],
                float(CODE_LIFE_S),
            )
        text = (
            f"{code} links you with the opsagent account {by.username!r}. It works once, for 10 minutes. "
            "If you didn't ask for it, ignore it and tell no one."
        )
        try:
            await courier.send(row["slack_team_id"], row["slack_user_id"], text)
        except DirectoryUnavailable as error:
            raise NoSuchChatUser("Slack can't be reached just now; try again in a moment.") from error

    async def confirm_link(self, code: str, *, by: Principal) -> Account:
        """Link with the Slack user who was sent this code; five tries, then a new one is needed."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.try_link_code, by.user_id)
        if row is None or not secrets.compare_digest(row["code_hash"], tokens.hashed(code.strip().upper())):
            raise BadCode("This code is wrong or too old; ask for a new one.")
        return await self._link(by.user_id, row["slack_team_id"], row["slack_user_id"], by=by)

    async def link_account(self, user_id: UUID, slack_user_id: str, *, by: Principal) -> Account:
        """Link an account with a Slack user, on an admin's word."""
        _admin(by)
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.find_chat_user, slack_user_id, None)
        if row is None:
            raise NoSuchChatUser("The bot doesn't know this Slack user yet: they must write to it in Slack once.")
        return await self._link(user_id, row["slack_team_id"], row["slack_user_id"], by=by)

    async def _link(self, user_id: UUID, team: str, chat_user: str, *, by: Principal) -> Account:
        """Let the account take the chat identity over, with what it owns and asks for."""
        async with self._database.transaction() as tx:
            if (row := await tx.fetchrow(sql.find_chat_user, chat_user, team)) is not None:
                await tx.execute(sql.lock_threads, row["user_id"])
            found = await tx.fetchrow(sql.lock, user_id)
            if found is None:
                raise users.UserNotFound
            if found["slack_user_id"] is not None:
                raise AlreadyLinked("This account is linked with a Slack user already.")
            row = await tx.fetchrow(sql.find_chat_user, chat_user, team)
            if row is None:
                raise NoSuchChatUser("This Slack user was linked with an account meanwhile.")
            other = await tx.fetchrow(sql.lock, row["user_id"])
            if other["can_log_in"]:
                raise AlreadyLinked("This Slack user is linked with another account.")
            if other["disabled"]:
                raise LinkRefused("This Slack user is disabled here; an admin must enable them first.")
            if tool := await tx.fetchval(sql.differing_rows, other["user_id"], user_id):
                raise LinkRefused(
                    f"The account and the Slack user have different policy rows for {tool}: an admin must make them "
                    "the same first."
                )
            await tx.execute(sql.leave_chat, other["user_id"], user_id)
            await tx.execute(sql.join_chat, user_id, team, chat_user, other["external"])
            await tx.execute(sql.drop_votes, other["user_id"])
            await tx.execute(sql.drop_same_rows, other["user_id"], user_id)
            # What an admin has imposed on the one holds for the other.
            moves = (sql.move_rows, sql.move_sessions, sql.move_turns, sql.move_approvals, sql.move_questions)
            for statement in moves:
                await tx.execute(statement, other["user_id"], user_id)
            await tx.execute(sql.drop_link_code, user_id)
            linked = await _read(tx, user_id)
            await audit.record(
                tx,
                Kind.USER_LINKED,
                actor=by.user_id,
                subject=user_id,
                data={"slack_user_id": chat_user, "was": str(other["user_id"])},
            )
        return linked


def account(row: Any) -> Account:
    return Account(
        user_id=row["user_id"],
        username=row["username"],
        email=row["email"],
        role=Role(row["role"]),
        disabled=row["disabled"],
        display_name=row["display_name"],
        slack_team_id=row["slack_team_id"],
        slack_user_id=row["slack_user_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


async def _read(tx: Tx, user_id: UUID) -> Account:
    row = await tx.fetchrow(sql.read, user_id)
    if row is None:
        raise users.UserNotFound
    return account(row)


def _admin(by: Principal) -> None:
    if by.role is not Role.ADMIN:
        raise AdminsOnly("Only an admin may do this.")


def _check_username(username: str, approvers: tuple[str, ...], *, by_admin: bool) -> None:
    if not _USERNAME.fullmatch(username):
        raise BadUsername(
            "A username has 2 to 64 letters, digits, dots, dashes or underscores, and starts with a letter or digit."
        )
    # A name in APPROVERS carries standing, and one like a chat id could be taken for one: only an admin gives those.
    taken = username.lower() in {name.lower() for name in approvers}
    if not by_admin and (taken or _LIKE_A_CHAT_ID.fullmatch(username.upper())):
        raise BadUsername("This username is reserved; choose another one, or ask an admin.")


def _check_email(email: str) -> None:
    if not _EMAIL.fullmatch(email):
        raise BadEmail("This is not an email address.")
