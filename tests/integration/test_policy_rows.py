"""Policy rows on real Postgres: who may write which, and that no word of an admin's is lost."""

import asyncio

import pytest

from agent.approvals.policy import Rule
from agent.errors import Invalid, NotAllowed
from tests.integration.conftest import ADMIN, Floor

AUTO = Rule(auto_execute=True, approval_required=False)
ASK = Rule(auto_execute=False, approval_required=True)
DENY = Rule(auto_execute=False, approval_required=False)


async def test_an_admins_word_survives_a_users_own_at_the_same_moment(floor: Floor) -> None:
    """Without the lock on the tool's row the user's upsert buries an admin's that it has not read."""
    tool = floor.tools["restart"].spec
    for index in range(25):
        user = await floor.user(f"user{index}")
        await asyncio.gather(
            floor.service.set_tool_approval(tool.tool_id, ASK, by=user, user_id=user.user_id),
            floor.service.set_tool_approval(tool.tool_id, DENY, by=ADMIN, user_id=user.user_id),
        )
        view = await floor.service.read_tool(tool.tool_id, by=user)
        assert (view.auto_execute, view.approval_required) == (False, False)


async def test_a_user_tightens_only_their_own_and_loosens_nothing(floor: Floor) -> None:
    tool = floor.tools["restart"].spec
    alice, bob = await floor.user("alice"), await floor.user("bob")
    for user_id in (None, bob.user_id):
        with pytest.raises(NotAllowed):
            await floor.service.set_tool_approval(tool.tool_id, DENY, by=alice, user_id=user_id)
    await floor.service.set_tool_approval(tool.tool_id, AUTO, by=alice, user_id=alice.user_id)
    assert (await floor.service.read_tool(tool.tool_id, by=alice)).approval_required
    await floor.service.set_tool_approval(tool.tool_id, DENY, by=alice, user_id=alice.user_id)
    view = await floor.service.read_tool(tool.tool_id, by=alice)
    assert (view.auto_execute, view.approval_required) == (False, False)
    assert (await floor.service.read_tool(tool.tool_id, by=bob)).approval_required


async def test_both_flags_are_refused_and_change_nothing(floor: Floor) -> None:
    tool = floor.tools["restart"].spec
    with pytest.raises(Invalid, match="can't both be true"):
        await floor.service.set_tool_approval(tool.tool_id, Rule(auto_execute=True, approval_required=True), by=ADMIN)
    assert await floor.sql("SELECT 1 FROM tool_approval_config") == []
