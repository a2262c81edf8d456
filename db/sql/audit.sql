-- name: append
-- Last in its transaction: see opsagent_audit.
SELECT opsagent_audit($1, $2, $3, $4);

-- name: list
SELECT id, at, kind, actor_id, subject, data, encode(hash, 'hex') AS hash FROM audit_log
 WHERE id < $1 ORDER BY id DESC LIMIT $2;

-- name: list_on
SELECT id, at, kind, actor_id, subject, data, encode(hash, 'hex') AS hash FROM audit_log
 WHERE id > $1 ORDER BY id LIMIT $2;

-- name: list_of_kind
SELECT id, at, kind, actor_id, subject, data, encode(hash, 'hex') AS hash FROM audit_log
 WHERE id < $1 AND kind = $3 ORDER BY id DESC LIMIT $2;

-- name: list_of_actor
SELECT id, at, kind, actor_id, subject, data, encode(hash, 'hex') AS hash FROM audit_log
 WHERE id < $1 AND actor_id = $3 ORDER BY id DESC LIMIT $2;

-- name: list_of_subject
SELECT id, at, kind, actor_id, subject, data, encode(hash, 'hex') AS hash FROM audit_log
 WHERE id < $1 AND subject = $3 ORDER BY id DESC LIMIT $2;

-- name: append_once
-- The same for what may be told again after a crash: nothing where this was told of this subject already.
SELECT opsagent_audit($1, $2, $3, $4)
 WHERE NOT EXISTS (
       SELECT 1 FROM audit_log
        WHERE subject = $3 AND kind = $1 AND actor_id IS NOT DISTINCT FROM $2 AND data = $4);

-- name: check_part
-- The first entry behind $1 that is missing, or whose hash is not what the entry before it and it itself make.
WITH part AS (
    SELECT id, hash, coalesce(lag(id) OVER chain, $1) + 1 AS expected_id,
           opsagent_audit_hash(coalesce(lag(hash) OVER chain, $3), id, at, kind, actor_id, subject, data) AS expected
      FROM (SELECT * FROM audit_log WHERE id > $1 ORDER BY id LIMIT $2) entries
    WINDOW chain AS (ORDER BY id))
SELECT min(expected_id) FILTER (WHERE hash <> expected OR id <> expected_id) AS wrong,
       min(expected_id) FILTER (WHERE id <> expected_id) AS missing,
       max(id) AS last, (array_agg(hash ORDER BY id DESC))[1] AS last_hash, count(*) AS checked
  FROM part;

-- name: head
SELECT h.id, h.hash, (SELECT min(id) FROM audit_log) AS first_id FROM audit_head h;

-- name: powers
-- How the connected role could change the log, if it can; one that owns it could also take the triggers away.
SELECT current_user AS role, current_setting('is_superuser') = 'on' AS is_superuser,
       pg_has_role(current_user, relowner, 'MEMBER') AS owns,
       has_table_privilege('audit_log', 'INSERT, UPDATE, DELETE, TRUNCATE')
           OR has_table_privilege('audit_head', 'INSERT, UPDATE, DELETE, TRUNCATE') AS writes
  FROM pg_class WHERE oid = 'audit_log'::regclass;
