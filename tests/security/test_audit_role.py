"""The service under a role of its own: everything works, and the audit log can't be changed, only appended to."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from agent import audit
from agent.approvals.policy import Rule
from agent.types import TurnStatus
from db.migrate import MigrationFailed, grant
from opsagent.parts import audit_powers
from tests.conftest import run_on
from tests.integration.conftest import ADMIN, ALICE, BOB, Floor, running
from tests.integration.test_accounts import account


@pytest.fixture
async def role(dsn: str) -> AsyncIterator[str]:
    """A role with the rights of the service, and no others."""
    name = f"service_{uuid4().hex[:12]}"
    await run_on(dsn, f"CREATE ROLE {name} LOGIN")
    await grant(dsn, name)
    yield name
    await run_on(dsn, f"DROP OWNED BY {name}; DROP ROLE {name}")


def as_role(dsn: str, role: str) -> str:
    """The same database, as another role."""
    before, _, behind = dsn.partition("://")
    return f"{before}://{role}@{behind.rpartition('@')[2] if '@' in behind.split('?')[0] else behind}"


@pytest.fixture
async def floor(dsn: str, role: str) -> AsyncIterator[Floor]:
    async with running(as_role(dsn, role), approvers=("U2BOB",)) as floor:
        yield floor


async def test_the_product_works_under_the_role(floor: Floor, role: str) -> None:
    assert (await floor.sql("SELECT current_user"))[0][0] == role
    session_id = await floor.session()
    assert (await floor.say(session_id, '{{tool uptime {"service": "a"}}}')).turn.status is TurnStatus.COMPLETED
    rule = Rule(auto_execute=False, approval_required=True, quorum=2)
    await floor.service.set_tool_approval(floor.tools["restart"].spec.tool_id, rule, by=ADMIN)
    asked = await floor.say(session_id, '{{tool restart {"service": "web"}}}', by=ADMIN)
    (approval,) = asked.pending_approvals
    await floor.decide(approval, by=ADMIN)
    await floor.decide(approval, by=BOB)
    assert (await floor.done(asked.turn.turn_id)).turn.status is TurnStatus.COMPLETED
    assert floor.tools.ran("restart") == ["web"]
    await account(floor, "alice")
    stopped = await floor.say(session_id, '{{tool restart {"service": "web"}}}')
    await floor.service.cancel_turn(session_id, by=ADMIN)
    assert (await floor.done(stopped.turn.turn_id)).turn.status is TurnStatus.CANCELLED
    await floor.service.principal_of_chat(ALICE)
    await floor.service.delete_session(session_id, by=ADMIN)
    verdict = await floor.service.verify_audit(by=ADMIN)
    assert verdict.ok
    assert verdict.entries >= 8


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE audit_log SET data = '{}'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "INSERT INTO audit_log SELECT id + 100, at, kind, actor_id, subject, data, hash FROM audit_log",
        "INSERT INTO audit_log SELECT 1, now(), 'x', NULL, 'x', '{}', 'x' ON CONFLICT (id) DO UPDATE SET data = '{}'",
        "MERGE INTO audit_log USING (SELECT 1) one ON true WHEN MATCHED THEN DELETE",
        "UPDATE audit_head SET id = 0",
        "DELETE FROM audit_head",
        "TRUNCATE audit_head",
        "DROP TABLE audit_log CASCADE",
        "ALTER TABLE audit_log RENAME TO other",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "ALTER TABLE audit_log OWNER TO CURRENT_USER",
        "DROP TRIGGER append_only ON audit_log",
        "CREATE TRIGGER mine BEFORE INSERT ON audit_log EXECUTE FUNCTION opsagent_append_only()",
        "CREATE RULE mine AS ON INSERT TO audit_log DO INSTEAD NOTHING",
        "CREATE OR REPLACE FUNCTION opsagent_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE FUNCTION public.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
        "ALTER FUNCTION opsagent_audit(text, uuid, text, text) SECURITY INVOKER",
        "SET session_replication_role = replica",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SELECT opsagent_grant(current_user)",
        "UPDATE opsagent_schema SET revision = '0000'",
        "BEGIN; LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE",
        "COPY audit_log FROM PROGRAM 'true'",
    ],
)
async def test_the_role_can_not_change_the_log(floor: Floor, dsn: str, attack: str) -> None:
    await floor.say(await floor.session(), '{{tool uptime {"service": "a"}}}')
    refused = "permission denied|must be owner|must be able to|cannot set|append-only|must be member"
    before = await entries(dsn)
    with pytest.raises(asyncpg.PostgresError, match=refused):
        await run_on(floor.core.database.dsn, attack)
    assert await entries(dsn) == before
    assert (await audit.verify(floor.core.database)).ok


async def entries(dsn: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch("SELECT * FROM audit_log ORDER BY id")
    finally:
        await connection.close()


async def test_a_temporary_table_of_the_same_name_takes_no_entries(floor: Floor, dsn: str) -> None:
    await run_on(
        floor.core.database.dsn,
        "CREATE TEMPORARY TABLE audit_head (single boolean, id bigint, hash bytea);"
        "CREATE TEMPORARY TABLE audit_log (LIKE public.audit_log);"
        "INSERT INTO audit_head VALUES (true, 0, 'x');"
        "SELECT opsagent_audit('user.login', NULL, 'x', '{}')",
    )
    assert [entry["kind"] for entry in await entries(dsn)] == ["user.login"]


async def test_a_stranger_to_the_service_can_not_even_append(dsn: str) -> None:
    stranger = f"stranger_{uuid4().hex[:12]}"
    await run_on(dsn, f"CREATE ROLE {stranger} LOGIN")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run_on(as_role(dsn, stranger), "SELECT opsagent_audit('user.login', NULL, 'x', '{}')")
    finally:
        await run_on(dsn, f"DROP ROLE {stranger}")


async def test_the_doctor_tells_the_roles_apart(dsn: str, role: str) -> None:
    assert await audit_powers(as_role(dsn, role)) == (role, None)
    _, how = await audit_powers(dsn)
    assert how == "is a superuser"
    await run_on(as_role(dsn, role), "GRANT ALL ON audit_log TO CURRENT_USER")  # only a warning
    assert await audit_powers(as_role(dsn, role)) == (role, None)
    await run_on(dsn, f"GRANT UPDATE ON audit_head TO {role}")
    assert await audit_powers(as_role(dsn, role)) == (role, "may write its tables")
    owner = f"owner_{uuid4().hex[:12]}"
    await run_on(dsn, f"CREATE ROLE {owner}; ALTER TABLE audit_log OWNER TO {owner}; GRANT {owner} TO {role}")
    try:
        assert await audit_powers(as_role(dsn, role)) == (role, "owns it")
    finally:
        await run_on(dsn, f"ALTER TABLE audit_log OWNER TO postgres; DROP ROLE {owner}")


@pytest.mark.parametrize(("name", "why"), [("nobody_here", "there is no role"), ("postgres", "may act as the owner")])
async def test_rights_go_to_no_role_that_could_change_the_log_anyway(dsn: str, name: str, why: str) -> None:
    with pytest.raises(MigrationFailed, match=why):
        await grant(dsn, name)


async def test_rights_that_a_role_had_too_many_are_taken_away(dsn: str, role: str) -> None:
    await run_on(dsn, f"GRANT ALL ON audit_log, audit_head, opsagent_schema TO {role}")
    await grant(dsn, role)
    assert await audit_powers(as_role(dsn, role)) == (role, None)
