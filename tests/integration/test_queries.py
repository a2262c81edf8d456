"""Every named query prepares on the migrated schema; on a filled database none reads a growing table as a whole."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from db import queries
from tests.conftest import in_database, run_on

_NOUNS = sorted(path.stem for path in queries.FOLDER.glob("*.sql"))
_QUERIES = {f"{noun}.{name}": text for noun in _NOUNS for name, text in vars(queries.load(noun)).items()}

_SMALL = {
    "deliveries": "only sessions whose door lags behind",
    "tools": "what is installed",
    "tool_pins": "what servers offer",
    "change_cards": "one an admin and change of a server's tool; forgotten after a month",
    "mcp_servers": "what admins registered",
    "mcp_file_servers": "what the operator's file names",
    "mcp_health": "one a server and worker",
    "mcp_oauth": "one a registered server",
    "mcp_oauth_starts": "authorizations under way",
    "usergroups": "the groups that approvers are named by",
    "audit_head": "one row",
    "rate_limits": "swept once a window is over",
    "procrastinate_jobs": "only threads with work",
    "procrastinate_workers": "one a process",
}
"""Tables that don't grow with use, and why."""

_RARE = {
    "accounts.move_sessions": "once in the life of an account that is linked, and it moves deleted sessions too",
    "accounts.lock_threads": "the same, for the same sessions",
    "accounts.drop_votes": "as above",
    "servers.forget_policy": "when an admin removes a server",
}
"""Queries that neither a turn nor a list makes."""

_SIZE = 20_000
_FILL = f"""
INSERT INTO users (user_id, username, slack_team_id, slack_user_id)
SELECT md5('user' || n)::uuid, 'user ' || n, 'T', 'U' || n FROM generate_series(1, {_SIZE}) n;
INSERT INTO user_sessions (session_id, user_id, source, created_at, expires_at)
SELECT md5('session' || n)::uuid, md5('user' || n % 2000 + 1)::uuid, 'rest', now() - make_interval(secs => n),
       CASE WHEN n % 10 = 0 THEN now() + interval '1 day' END FROM generate_series(1, {_SIZE}) n;
INSERT INTO turns (turn_id, session_id, requester_id, status, text, event_key, message_key, finished_at)
SELECT md5('turn' || n)::uuid, md5('session' || n)::uuid, md5('user' || n % 2000 + 1)::uuid,
       CASE n % 100 WHEN 0 THEN 'awaiting_approval' WHEN 1 THEN 'queued' ELSE 'completed' END,
       'hello', 'event ' || n, 'message ' || n, now() FROM generate_series(1, {_SIZE}) n;
INSERT INTO messages (message_id, session_id, turn_id, role, content, tokens)
SELECT md5('message' || n)::uuid, md5('session' || n % {_SIZE} + 1)::uuid, md5('turn' || n % {_SIZE} + 1)::uuid, 'user',
       repeat('x', 200), 50 FROM generate_series(1, 3 * {_SIZE}) n;
INSERT INTO events (session_id, seq, turn_id, kind, data)
SELECT md5('session' || n % {_SIZE} + 1)::uuid, n, md5('turn' || n % {_SIZE} + 1)::uuid, 'turn.queued', '{{}}'
  FROM generate_series(1, 3 * {_SIZE}) n;
INSERT INTO approvals (approval_id, session_id, turn_id, tool_call_id, tool_id, tool_name, schema_hash, args,
       args_digest, args_proposed, requested_by, status, expires_at, created_at, handled_at)
SELECT md5('approval' || n)::uuid, md5('session' || n)::uuid, md5('turn' || n)::uuid, 'call ' || n,
       md5('tool' || n % 50)::uuid, 'restart', 'hash', '{{}}', 'digest', '{{}}', md5('user' || n % 2000 + 1)::uuid,
       CASE n % 100 WHEN 0 THEN 'pending' ELSE 'approved' END, now() + interval '9 h',
       now() - make_interval(secs => n), CASE WHEN n % 100 > 0 THEN now() END FROM generate_series(1, {_SIZE}) n;
INSERT INTO votes (approval_id, voter_id, decision, args_digest)
SELECT md5('approval' || n)::uuid, md5('user' || n % 2000 + 1)::uuid, 'approve', 'digest'
  FROM generate_series(1, {_SIZE}) n;
INSERT INTO executions (session_id, tool_call_id, turn_id, tool_id, tool_name, args_digest, status)
SELECT md5('session' || n)::uuid, 'call ' || n, md5('turn' || n)::uuid, md5('tool' || n % 50)::uuid, 'restart',
       'digest', 'succeeded' FROM generate_series(1, {_SIZE}) n;
INSERT INTO questions (question_id, session_id, turn_id, tool_call_id, tool_name, message, schema, asked_of, status,
       expires_at, created_at)
SELECT md5('question' || n)::uuid, md5('session' || n)::uuid, md5('turn' || n)::uuid, 'call ' || n, 'restart', 'why?',
       '{{}}', md5('user' || n % 2000 + 1)::uuid, CASE n % 100 WHEN 0 THEN 'open' ELSE 'answered' END, now(),
       now() - make_interval(secs => n) FROM generate_series(1, {_SIZE}) n;
INSERT INTO attachments (attachment_id, session_id, turn_id, tool_call_id, position, kind, name, media_type, size,
       content, created_at)
SELECT md5('attachment' || n)::uuid, md5('session' || n)::uuid, md5('turn' || n)::uuid, 'call ' || n, 0, 'file',
       'a.txt', 'text/plain', 1, '\\x00', now() - make_interval(secs => n) FROM generate_series(1, {_SIZE}) n;
INSERT INTO approval_grants (grant_id, tool_id, tool_name, schema_hash, session_id, requester_id, args_schema,
       granted_by, approval_id, created_at, expires_at)
SELECT md5('grant' || n)::uuid, md5('tool' || n % 50)::uuid, 'restart', 'hash', md5('session' || n)::uuid,
       md5('user' || n % 2000 + 1)::uuid, '{{}}', md5('user' || n % 2000 + 1)::uuid, md5('approval' || n)::uuid,
       now() - make_interval(secs => n), now() + interval '1 h' FROM generate_series(1, {_SIZE}) n;
INSERT INTO approval_previews (approval_id, args_digest, made_at, ok, text)
SELECT md5('approval' || n)::uuid, 'digest', now(), true, 'x' FROM generate_series(1, {_SIZE}) n;
INSERT INTO resolutions (resolution_id, approval_id, action, resolved_by, args_digest, turn_id)
SELECT md5('resolution' || n)::uuid, md5('approval' || n)::uuid, 'run_again', md5('user' || n % 2000 + 1)::uuid,
       'digest', md5('turn' || n)::uuid FROM generate_series(1, {_SIZE}) n;
INSERT INTO tool_approval_config (user_id, tool_id, tool_name, auto_execute, approval_required)
SELECT CASE WHEN n > 50 THEN md5('user' || n)::uuid END, md5('tool' || n % 50)::uuid, 'restart', true, false
  FROM generate_series(1, {_SIZE}) n;
INSERT INTO posts (session_id, key) SELECT md5('session' || n)::uuid, 'answer' FROM generate_series(1, {_SIZE}) n;
INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint)
SELECT md5('session' || n)::uuid::text, n::text, '{{}}' FROM generate_series(1, {_SIZE}) n;
INSERT INTO checkpoint_blobs (thread_id, channel, version, type)
SELECT md5('session' || n)::uuid::text, 'messages', n::text, 'msgpack' FROM generate_series(1, {_SIZE}) n;
INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob)
SELECT md5('session' || n)::uuid::text, n::text, 'task', 0, 'messages', 'x' FROM generate_series(1, {_SIZE}) n;
INSERT INTO audit_log (id, at, kind, actor_id, subject, data, hash)
SELECT n, now(), 'kind ' || n % 200, md5('user' || n % 2000 + 1)::uuid, 'subject ' || n, '{{}}', '\\x00'
  FROM generate_series(1, {_SIZE}) n;
INSERT INTO service_tokens (token_id, name, token_hash, user_id, scopes, created_by, expires_at)
SELECT md5('token' || n)::uuid, 'token ' || n, decode(md5('token' || n), 'hex'), md5('user' || n)::uuid, '{{}}',
       md5('user' || n)::uuid, now() FROM generate_series(1, {_SIZE}) n;
INSERT INTO link_codes (user_id, code_hash, slack_team_id, slack_user_id, expires_at)
SELECT user_id, '\\x00', 'T', 'U', now() FROM users;
ANALYZE;
"""


@pytest.fixture(scope="module")
def filled(server: str, template: str) -> Iterator[str]:
    """A database with some 300,000 rows."""
    name = f"filled_{uuid4().hex[:12]}"

    async def make() -> None:
        await run_on(server, f"CREATE DATABASE {name} TEMPLATE {template}")
        await run_on(in_database(server, name), _FILL)

    asyncio.run(make())
    yield in_database(server, name)
    asyncio.run(run_on(server, f"DROP DATABASE {name} WITH (FORCE)"))


def scans(plan: dict[str, Any]) -> Iterator[str]:
    """The tables that a plan reads from end to end."""
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for part in plan.get("Plans", []):
        yield from scans(part)


@pytest.mark.parametrize("name", _QUERIES)
async def test_the_query_prepares_on_the_migrated_schema(filled: str, name: str) -> None:
    connection = await asyncpg.connect(filled)
    try:
        await connection.prepare(_QUERIES[name])
    finally:
        await connection.close()


@pytest.mark.parametrize("name", sorted(set(_QUERIES) - set(_RARE)))
def test_the_query_reads_no_growing_table_from_end_to_end(filled: str, name: str) -> None:
    with psycopg.connect(filled) as connection:  # without parameters it sends the text as it is
        (found,) = connection.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {_QUERIES[name]}").fetchone() or ()
    assert set(scans(found[0]["Plan"])) - set(_SMALL) == set()


def test_a_query_without_an_index_is_noticed(filled: str) -> None:
    with psycopg.connect(filled) as connection:
        query = "EXPLAIN (GENERIC_PLAN, FORMAT JSON) SELECT 1 FROM turns WHERE reply = $1"
        (found,) = connection.execute(query).fetchone() or ()
    assert list(scans(found[0]["Plan"])) == ["turns"]


def test_what_is_exempt_exists(filled: str) -> None:
    with psycopg.connect(filled) as connection:
        tables = {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert set(_SMALL) <= tables
    assert set(_RARE) <= set(_QUERIES)
