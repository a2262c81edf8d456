"""Accounts, logins and tokens on real Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from agent import tokens
from agent.accounts import BadCode, BadUsername, RegistrationClosed, UsernameTaken, WrongCredentials
from agent.approvals.policy import Rule
from agent.errors import Conflict, Invalid, NotAllowed
from agent.ports import DirectoryUnavailable
from agent.throttle import TooMany
from agent.tokens import BadToken, Signer
from agent.types import Address, ChatUser, Principal, Role, ThreadKey
from tests.integration.conftest import ADMIN, ALICE, Floor, running

PASSWORD = "not-a-real-password-1"


async def account(floor: Floor, name: str, role: Role | None = None) -> Principal:
    made = await floor.service.register(username=name, email=f"{name}@example.com", password=PASSWORD, by=ADMIN)
    if role:
        made = await floor.service.update_account(made.user_id, by=ADMIN, role=role)
    return Principal(made.user_id, made.username, made.role)


async def token_of(floor: Floor, name: str) -> str:
    return (await floor.service.login(name, PASSWORD, address="127.0.0.1")).access_token


async def test_a_login_gives_a_token_that_says_who_it_is(floor: Floor) -> None:
    alice = await account(floor, "alice")
    found = await floor.service.authenticate(await token_of(floor, "ALICE"))
    assert (found.principal.user_id, found.principal.role, found.scopes) == (alice.user_id, Role.MEMBER, None)


async def test_unknown_user_and_wrong_password_get_the_same_answer(floor: Floor) -> None:
    await account(floor, "alice")
    for name, password in (("alice", "wrong-password"), ("nobody", PASSWORD)):
        with pytest.raises(WrongCredentials):
            await floor.service.login(name, password, address="127.0.0.1")


async def test_ten_wrong_passwords_close_the_account_for_a_while_even_for_the_right_one(floor: Floor) -> None:
    await account(floor, "alice")
    for _ in range(10):
        with pytest.raises(WrongCredentials):
            await floor.service.login("alice", "wrong-password", address="127.0.0.1")
    for password in ("wrong-password", PASSWORD):
        with pytest.raises(TooMany) as refused:
            await floor.service.login("alice", password, address="127.0.0.2")
    assert refused.value.retry_after_s > 0


async def test_wrong_passwords_are_counted_over_all_replicas(floor: Floor, dsn: str) -> None:
    await account(floor, "alice")
    async with running(dsn, work=False) as other:
        for index in range(10):
            with pytest.raises(WrongCredentials):
                await (floor, other)[index % 2].service.login("alice", "wrong-password", address="127.0.0.1")
        with pytest.raises(TooMany):
            await other.service.login("alice", PASSWORD, address="127.0.0.1")


async def test_logout_and_a_new_password_end_every_token_at_once(floor: Floor) -> None:
    alice = await account(floor, "alice")
    first, second = await token_of(floor, "alice"), await token_of(floor, "alice")
    await floor.service.authenticate(first)
    await floor.service.logout(by=alice)
    await gone(floor, first)
    await gone(floor, second)
    third = await token_of(floor, "alice")
    await floor.service.authenticate(third)
    await floor.service.update_profile(by=alice, password="another-password-2", current_password=PASSWORD)
    await gone(floor, third)
    with pytest.raises(Invalid):
        await floor.service.update_profile(by=alice, password="another-password-3", current_password="wrong")


async def gone(floor: Floor, token: str) -> None:
    """The notification that ends a cached identity comes within moments."""
    async with asyncio.timeout(45):
        while True:
            try:
                await floor.service.authenticate(token)
            except BadToken:
                return
            await asyncio.sleep(0.02)


async def test_a_disabled_user_is_out_on_another_replica_too(floor: Floor, dsn: str) -> None:
    alice = await account(floor, "alice")
    async with (
        running(dsn, work=False, signing_keys=("k" * 32,)) as one,
        running(dsn, work=False, signing_keys=("k" * 32,)) as other,
    ):
        token = await token_of(one, "alice")
        await other.service.authenticate(token)
        await one.service.update_account(alice.user_id, by=ADMIN, disabled=True)
        await gone(other, token)
        with pytest.raises(WrongCredentials):
            await other.service.login("alice", PASSWORD, address="127.0.0.1")


def test_tokens_survive_a_rotation_and_nothing_else() -> None:
    old, new = "o" * 32, "n" * 32
    now = datetime.now(UTC)
    token = Signer((old,)).sign(ADMIN.user_id, 3, now=now)
    assert Signer((new, old)).read(token).version == 3
    forged = [
        jwt.encode({"sub": "x"}, "", algorithm="none"),
        token[:-4] + "aaaa",
        Signer(("x" * 32,)).sign(ADMIN.user_id, 3, now=now),
        Signer((old,)).sign(ADMIN.user_id, 3, now=now - timedelta(days=1)),
        _other_audience(old, now),
        _without_expiry(old, now),
        "not.a.token",
        "",
    ]
    for bad in forged:
        with pytest.raises(BadToken):
            Signer((new, old)).read(bad)


def _claims(now: datetime) -> dict[str, object]:
    return {"sub": str(ADMIN.user_id), "ver": 0, "iss": tokens.ISSUER, "aud": tokens.AUDIENCE, "iat": now}


def _signed(claims: dict[str, object], key: str) -> str:
    signer = Signer((key,))
    return jwt.encode(claims, signer._keys[tokens.key_id(key)], algorithm="HS256", headers={"kid": tokens.key_id(key)})


def _other_audience(key: str, now: datetime) -> str:
    return _signed({**_claims(now), "exp": now + timedelta(hours=1), "aud": "another-api"}, key)


def _without_expiry(key: str, now: datetime) -> str:
    return _signed(_claims(now), key)


async def test_only_admins_make_accounts_unless_registration_is_open(floor: Floor) -> None:
    with pytest.raises(RegistrationClosed):
        await floor.service.register(username="mallory", email="m@example.com", password=PASSWORD, by=None)
    made = await floor.service.register(
        username="mallory", email="m@example.com", password=PASSWORD, by=None, open_to_all=True
    )
    assert made.role is Role.MEMBER


@pytest.mark.parametrize("name", ["U2BOB", "u2bob", "S0SRE", "carol"])
async def test_nobody_registers_a_name_that_carries_standing_or_looks_like_a_chat_id(dsn: str, name: str) -> None:
    async with running(dsn, work=False, approvers=("carol", "U2BOB")) as floor:
        with pytest.raises(BadUsername):
            await floor.service.register(
                username=name, email="m@example.com", password=PASSWORD, by=None, open_to_all=True
            )


async def test_usernames_are_unique_whatever_their_case(floor: Floor) -> None:
    await account(floor, "alice")
    with pytest.raises(UsernameTaken):
        await account(floor, "Alice")


async def test_a_service_token_is_shown_once_scoped_and_revocable(floor: Floor) -> None:
    made, secret = await floor.service.create_token(
        by=ADMIN, name="ci", scopes=("read", "chat"), role=Role.MEMBER, expires_in_days=30
    )
    found = await floor.service.authenticate(secret)
    assert found.scopes == {"read", "chat"}
    assert found.principal.user_id == made.user_id
    stored = await floor.sql("SELECT token_hash FROM service_tokens")
    assert secret.encode() not in bytes(stored[0]["token_hash"])
    with pytest.raises(Conflict):
        await floor.service.create_token(by=ADMIN, name="CI", scopes=("read",), role=Role.MEMBER, expires_in_days=1)
    await floor.service.revoke_token(made.token_id, by=ADMIN)
    await gone(floor, secret)


async def test_members_manage_neither_accounts_nor_tokens(floor: Floor) -> None:
    alice = await account(floor, "alice")
    for attempt in (
        floor.service.list_accounts(by=alice),
        floor.service.update_account(alice.user_id, by=alice, role=Role.ADMIN),
        floor.service.list_tokens(by=alice),
        floor.service.link_account(alice.user_id, "U1ALICE", by=alice),
    ):
        with pytest.raises(NotAllowed):
            await attempt


class Letters:
    """A Courier that keeps what was sent; `away` is Slack being down."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.away = False

    async def send(self, team: str, user: str, text: str) -> None:
        if self.away:
            raise DirectoryUnavailable("away")
        self.sent.append((team, user, text))


async def test_a_code_from_a_private_message_makes_two_doors_one_identity(dsn: str) -> None:
    letters = Letters()
    async with running(dsn, courier=letters) as floor:
        alice = await account(floor, "alice")
        in_slack = await floor.service.principal_of_chat(ALICE)
        session_id = (await floor.service.create_session(by=in_slack)).session_id
        await floor.service.send_link_code("U1ALICE", by=alice)
        ((_team, user, text),) = letters.sent
        assert user == "U1ALICE"
        with pytest.raises(BadCode):
            await floor.service.confirm_link("WRONG123", by=alice)
        linked = await floor.service.confirm_link(text.split()[0].lower(), by=alice)
        assert linked.slack_user_id == "U1ALICE"
        assert (await floor.service.principal_of_chat(ALICE)).user_id == alice.user_id
        assert (await floor.service.read_session(session_id, by=alice)).user_id == alice.user_id
        with pytest.raises(BadCode):
            await floor.service.confirm_link(text.split()[0], by=alice)


async def test_a_link_code_is_worth_five_tries(dsn: str) -> None:
    letters = Letters()
    async with running(dsn, courier=letters) as floor:
        alice = await account(floor, "alice")
        await floor.service.principal_of_chat(ALICE)
        await floor.service.send_link_code("U1ALICE", by=alice)
        code = letters.sent[0][2].split()[0]
        for _ in range(5):
            with pytest.raises(BadCode):
                await floor.service.confirm_link("WRONG123", by=alice)
        with pytest.raises(BadCode):
            await floor.service.confirm_link(code, by=alice)


async def test_a_linked_requester_is_still_the_requester_under_four_eyes(dsn: str) -> None:
    async with running(dsn, approvers=("U1ALICE",)) as floor:
        tool = floor.tools["restart"].spec
        rule = Rule(auto_execute=False, approval_required=True, four_eyes=True)
        await floor.service.set_tool_approval(tool.tool_id, rule, by=ADMIN)
        key = ThreadKey("T0TEAM", "C0OPS", "1.1")
        sent = await floor.service.submit_message(
            key, '{{tool restart {"service": "web"}}}', by=ALICE, address=Address("test", {})
        )
        asked = await floor.parked(sent.turn.turn_id, 1)
        alice = await account(floor, "alice", Role.APPROVER)
        await floor.service.link_account(alice.user_id, "U1ALICE", by=ADMIN)
        for by in (alice, ChatUser("T0TEAM", "U1ALICE")):
            with pytest.raises(NotAllowed, match="Someone else"):
                await floor.decide(asked.pending_approvals[0], by=by)
