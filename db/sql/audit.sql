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

-- name: check_part
-- The entries behind $1 whose hash is not what the entry before it and they themselves make; and those that are missing.
WITH part AS (
    SELECT id, hash, lag(id) OVER chain AS before_id,
           opsagent_audit_hash(coalesce(lag(hash) OVER chain, $3), id, at, kind, actor_id, subject, data) AS expected
      FROM (SELECT * FROM audit_log WHERE id > $1 ORDER BY id LIMIT $2) entries
    WINDOW chain AS (ORDER BY id))
SELECT min(id) FILTER (WHERE hash <> expected OR id <> coalesce(before_id, $1) + 1) AS wrong,
       max(id) AS last, (array_agg(hash ORDER BY id DESC))[1] AS last_hash, count(*) AS checked
  FROM part;

-- name: head
SELECT id, hash FROM audit_head;
