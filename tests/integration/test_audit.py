"""The audit log: what is told of, and that a change of it shows."""

import pytest

from agent import audit
from agent.approvals.policy import Rule
from tests.integration.conftest import ADMIN, Floor


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


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_log SET data = '{}' WHERE id = 2",
        "UPDATE audit_log SET kind = 'user.login' WHERE id = 2",
        "UPDATE audit_log SET actor_id = gen_random_uuid() WHERE id = 2",
        "UPDATE audit_log SET subject = 'other' WHERE id = 2",
        "UPDATE audit_log SET at = at + interval '1 second' WHERE id = 2",
        "UPDATE audit_log SET hash = '\\x01' WHERE id = 2",
        "DELETE FROM audit_log WHERE id = 2",
    ],
)
async def test_a_tampered_entry_is_named_by_verify(floor: Floor, change: str) -> None:
    await approved_restart(floor)
    with pytest.raises(Exception, match="append-only"):
        await floor.sql(change)
    await floor.sql("ALTER TABLE audit_log DISABLE TRIGGER append_only")
    await floor.sql(change)
    verdict = await floor.service.verify_audit(by=ADMIN)
    assert not verdict.ok
    assert verdict.wrong in (2, 3)


async def test_a_cut_off_tail_shows(floor: Floor) -> None:
    await approved_restart(floor)
    await floor.sql("ALTER TABLE audit_log DISABLE TRIGGER append_only")
    await floor.sql("DELETE FROM audit_log WHERE id > 2")
    verdict = await audit.verify(floor.core.database)
    assert (verdict.ok, verdict.wrong) == (False, 3)


async def test_the_log_is_for_admins(floor: Floor) -> None:
    member = await floor.user("mallory")
    with pytest.raises(Exception, match="Only an admin"):
        await floor.service.read_audit(by=member)
