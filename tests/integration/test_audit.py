"""The audit log: what is told of, and that a change of it shows."""

import asyncio

import asyncpg
import pytest

from agent import audit
from agent.approvals import store
from agent.approvals.policy import Rule
from agent.audit import Entry, Kind
from tests.conftest import run_on
from tests.integration.conftest import ADMIN, ALICE, BOB, Floor


async def approved_restart(floor: Floor) -> None:
    session_id = await floor.session()
    asked = await floor.say(session_id, '{{tool restart {"service": "web"}}}')
    await floor.decide(asked.pending_approvals[0])
    await floor.done(asked.turn.turn_id)


async def test_an_approved_call_leaves_its_whole_way_in_the_log(floor: Floor) -> None:
    await approved_restart(floor)
    page = await floor.service.read_audit(by=ADMIN)
    assert [entry.kind for entry in reversed(page.items)] == [
        "approval.opened",
        "approval.settled",
        "execution.started",
        "execution.finished",
    ]
    verdict = await floor.service.verify_audit(by=ADMIN)
    assert (verdict.ok, verdict.entries) == (True, 4)


async def test_a_policy_change_is_told_of_with_its_rule(floor: Floor) -> None:
    tool = floor.tools["restart"].spec
    await floor.service.set_tool_approval(tool.tool_id, Rule(auto_execute=False, approval_required=True), by=ADMIN)
    (entry,) = (await floor.service.read_audit(by=ADMIN, kind="policy.set")).items
    assert entry.subject == str(tool.tool_id)
    assert entry.data["rule"]["approval_required"] is True


UNLOCKED = "ALTER TABLE audit_log DISABLE TRIGGER USER; ALTER TABLE audit_head DISABLE TRIGGER USER"
"""What only the tables' owner can do; the role of docs/operations.md can't (tests/security/test_audit_role.py)."""
_INSERTED = """
INSERT INTO audit_log (id, at, kind, actor_id, subject, data, hash)
SELECT {0}, now(), 'user.login', NULL, 'x', '{{}}', opsagent_audit_hash(
       coalesce((SELECT hash FROM audit_log WHERE id = {0} - 1), '\\x00'), {0}, now(), 'user.login', NULL, 'x', '{{}}')
"""
TAMPERED = {
    "id": ("UPDATE audit_log SET id = 20 WHERE id = 2", 2),
    "at": ("UPDATE audit_log SET at = at + interval '1 microsecond' WHERE id = 2", 2),
    "kind": ("UPDATE audit_log SET kind = 'user.login' WHERE id = 2", 2),
    "actor_id": ("UPDATE audit_log SET actor_id = gen_random_uuid() WHERE id = 2", 2),
    "actor_id, to nobody": ("UPDATE audit_log SET actor_id = NULL WHERE id = 2", 2),
    "subject": ("UPDATE audit_log SET subject = subject || ' ' WHERE id = 2", 2),
    "data": ("UPDATE audit_log SET data = replace(data, 'web', 'all') || ' ' WHERE id = 2", 2),
    "hash": ("UPDATE audit_log SET hash = '\\x01' WHERE id = 2", 2),
    "hash, of the last": ("UPDATE audit_log SET hash = '\\x01' WHERE id = 4", 4),
    "one removed": ("DELETE FROM audit_log WHERE id = 2", 2),
    "the first removed": ("DELETE FROM audit_log WHERE id = 1", 1),
    "two swapped": (
        "UPDATE audit_log SET id = CASE id WHEN 2 THEN -3 ELSE -2 END WHERE id IN (2, 3);"
        "UPDATE audit_log SET id = -id WHERE id < 0",
        2,
    ),
    "one inserted before the first": (_INSERTED.format(0), 0),
    "one inserted behind the last": (_INSERTED.format(5), 5),
    "one inserted, and those behind it moved": (
        "UPDATE audit_log SET id = -id - 1 WHERE id > 2; UPDATE audit_log SET id = -id WHERE id < 0;"
        + _INSERTED.format(3),
        4,
    ),
    "the tail cut off": ("DELETE FROM audit_log WHERE id > 2", 3),
    "the tail cut off by the head": ("UPDATE audit_head SET id = 2", 3),
    "the head's id": ("UPDATE audit_head SET id = 9", 5),
    "the head's hash": ("UPDATE audit_head SET hash = '\\x01'", 4),
    "the head removed": ("DELETE FROM audit_head", None),
}


def test_every_column_of_the_log_is_tampered_with_here() -> None:
    columns = {"id", "at", "kind", "actor_id", "subject", "data", "hash"}
    assert columns == set(Entry.__dataclass_fields__)
    assert columns <= set(TAMPERED)


@pytest.mark.parametrize("what", TAMPERED)
async def test_a_tampered_entry_is_refused_and_where_it_is_forced_it_is_named(floor: Floor, what: str) -> None:
    change, wrong = TAMPERED[what]
    await approved_restart(floor)
    if not what.startswith("one inserted b"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await run_on(floor.core.database.dsn, change)
    assert (await audit.verify(floor.core.database)).ok
    await run_on(floor.core.database.dsn, f"{UNLOCKED}; {change}")
    verdict = await floor.service.verify_audit(by=ADMIN)
    assert (verdict.ok, verdict.wrong) == (False, wrong), verdict
    assert verdict.reason


@pytest.mark.parametrize("table", ["audit_log", "audit_head"])
async def test_the_log_is_not_emptied(floor: Floor, table: str) -> None:
    await approved_restart(floor)
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await run_on(floor.core.database.dsn, f"TRUNCATE {table}")


async def test_entries_that_come_while_the_log_is_checked_are_not_taken_for_forged(floor: Floor) -> None:
    """The head is read first: what is appended behind it meanwhile is not behind the end of the log."""
    await approved_restart(floor)
    writing = True

    async def write() -> None:
        while writing:
            async with floor.core.database.transaction() as tx:
                await audit.record(tx, Kind.TOOLS_RELOADED, actor=None, subject="tools", data={})

    writer = asyncio.create_task(write())
    verdicts = [await audit.verify(floor.core.database) for _ in range(50)]
    writing = False
    await writer
    assert all(verdict.ok for verdict in verdicts), verdicts


async def test_a_call_that_policy_denies_is_told_of(floor: Floor) -> None:
    tool = floor.tools["restart"].spec
    await floor.service.set_tool_approval(tool.tool_id, Rule(auto_execute=False, approval_required=False), by=ADMIN)
    await floor.say(await floor.session(), '{{tool restart {"service": "web"}}}')
    (entry,) = (await floor.service.read_audit(by=ADMIN, kind="call.denied")).items
    assert entry.data["tool_name"] == "restart"
    assert entry.data["digest"] == store.digest('{"service":"web"}')


async def test_what_was_shown_is_told_once_for_each_look_and_each_reader(floor: Floor) -> None:
    asked = await floor.say(await floor.session(), '{{tool restart {"service": "web"}}}')
    approval = asked.pending_approvals[0]
    shown = {"door": "slack", "form": "card", "args_digest": approval.args_digest, "to": None}
    for look in ("a", "a", "b", "a"):
        await floor.service.note_shown(approval.approval_id, **shown, rendered_digest=look)
    for reader in (ALICE, BOB, ALICE):
        await floor.service.note_shown(
            approval.approval_id, **{**shown, "form": "modal", "to": reader}, rendered_digest="c"
        )
    entries = (await floor.service.read_audit(by=ADMIN, kind="approval.shown")).items
    assert [entry.data["rendered_digest"] for entry in reversed(entries)] == ["a", "b", "c", "c"]
    assert len({entry.actor_id for entry in entries}) == 3
    assert {entry.subject for entry in entries} == {str(approval.approval_id)}


@pytest.mark.parametrize("let_in", [True, False])
@pytest.mark.parametrize("with_key", [True, False])
async def test_who_comes_into_the_console_is_told_of(floor: Floor, with_key: bool, let_in: bool) -> None:
    await floor.service.note_console_login(with_key=with_key, let_in=let_in, address="192.0.2.1")
    (entry,) = (await floor.service.read_audit(by=ADMIN)).items
    assert entry.kind == ("user.login" if let_in else "user.login_failed")
    assert entry.data == {"address": "192.0.2.1", "console": "api_key" if with_key else "link"}


async def test_the_log_is_for_admins(floor: Floor) -> None:
    member = await floor.user("mallory")
    with pytest.raises(Exception, match="Only an admin"):
        await floor.service.read_audit(by=member)
