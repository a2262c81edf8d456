-- name: save
INSERT INTO tools (tool_id, name, original_name, description, source, server, input_schema, schema_hash, annotations,
       read_only, idempotent, status, seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'available', now())
ON CONFLICT (tool_id) DO UPDATE SET name = EXCLUDED.name, description = EXCLUDED.description,
       input_schema = EXCLUDED.input_schema, schema_hash = EXCLUDED.schema_hash, annotations = EXCLUDED.annotations,
       read_only = EXCLUDED.read_only, idempotent = EXCLUDED.idempotent, status = 'available', seen_at = now();

-- name: missing
-- What nobody has offered for $2 seconds; replicas that offer a tool say so again and again.
UPDATE tools SET status = 'unavailable'
 WHERE status = 'available' AND NOT tool_id = ANY($1::uuid[]) AND seen_at <= now() - make_interval(secs => $2);

-- name: list
SELECT t.tool_id, coalesce(t.given_name, t.name) AS name, t.original_name,
       coalesce(t.given_description, t.description) AS description, t.source, t.server, t.input_schema, t.schema_hash,
       t.annotations, t.read_only, t.idempotent, t.status, t.enabled, t.redact, p.accepted_hash,
       p.pending_hash IS NOT NULL AS is_changed
  FROM tools t LEFT JOIN tool_pins p USING (tool_id)
 WHERE t.status = 'available' ORDER BY 2, t.tool_id;

-- name: read
SELECT t.tool_id, coalesce(t.given_name, t.name) AS name, t.original_name,
       coalesce(t.given_description, t.description) AS description, t.source, t.server, t.input_schema, t.schema_hash,
       t.annotations, t.read_only, t.idempotent, t.status, t.enabled, t.redact, p.accepted_hash,
       p.pending_hash IS NOT NULL AS is_changed
  FROM tools t LEFT JOIN tool_pins p USING (tool_id)
 WHERE t.tool_id = $1;

-- name: lock
-- The rows of one tool are changed one after the other: a user's own row keeps what an admin's says beneath it.
SELECT tool_id FROM tools WHERE tool_id = $1 FOR UPDATE;

-- name: rows
-- The rows that may count for a user's call of a tool: the default and their own.
SELECT user_id, auto_execute, approval_required, by_admin, approvers, quorum, four_eyes, expires_in_s, doors,
       fresh_login_s, remind_after_s, escalate_after_s, escalate_to, remember_max_s,
       rules::text AS rules, beneath::text AS beneath
  FROM tool_approval_config WHERE tool_id = $1 AND user_id IS NULL
UNION ALL
SELECT user_id, auto_execute, approval_required, by_admin, approvers, quorum, four_eyes, expires_in_s, doors,
       fresh_login_s, remind_after_s, escalate_after_s, escalate_to, remember_max_s,
       rules::text AS rules, beneath::text AS beneath
  FROM tool_approval_config WHERE tool_id = $1 AND user_id = $2;

-- name: rows_of_user
-- The default rows of every tool, and the user's own.
SELECT tool_id, user_id, auto_execute, approval_required, by_admin, approvers, quorum, four_eyes, expires_in_s, doors,
       fresh_login_s, remind_after_s, escalate_after_s, escalate_to, remember_max_s,
       rules::text AS rules, beneath::text AS beneath
  FROM tool_approval_config WHERE user_id IS NULL OR user_id = $1;

-- name: save_default
INSERT INTO tool_approval_config (user_id, tool_id, tool_name, auto_execute, approval_required, approvers, quorum,
       four_eyes, expires_in_s, rules, doors, fresh_login_s, remind_after_s, escalate_after_s, escalate_to,
       remember_max_s)
VALUES (NULL, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (tool_id) WHERE user_id IS NULL DO UPDATE SET tool_name = EXCLUDED.tool_name,
       auto_execute = EXCLUDED.auto_execute, approval_required = EXCLUDED.approval_required,
       approvers = EXCLUDED.approvers, quorum = EXCLUDED.quorum, four_eyes = EXCLUDED.four_eyes,
       expires_in_s = EXCLUDED.expires_in_s, rules = EXCLUDED.rules,
       doors = EXCLUDED.doors, fresh_login_s = EXCLUDED.fresh_login_s, remind_after_s = EXCLUDED.remind_after_s,
       escalate_after_s = EXCLUDED.escalate_after_s, escalate_to = EXCLUDED.escalate_to,
       remember_max_s = EXCLUDED.remember_max_s, updated_at = now()
RETURNING updated_at;

-- name: save_of_user
INSERT INTO tool_approval_config (user_id, tool_id, tool_name, auto_execute, approval_required, approvers, quorum,
       four_eyes, expires_in_s, rules, doors, fresh_login_s, remind_after_s, escalate_after_s, escalate_to,
       remember_max_s, by_admin, beneath)
VALUES ($16, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $17, $18)
ON CONFLICT (user_id, tool_id) WHERE user_id IS NOT NULL DO UPDATE SET tool_name = EXCLUDED.tool_name,
       auto_execute = EXCLUDED.auto_execute, approval_required = EXCLUDED.approval_required,
       approvers = EXCLUDED.approvers, quorum = EXCLUDED.quorum, four_eyes = EXCLUDED.four_eyes,
       expires_in_s = EXCLUDED.expires_in_s, rules = EXCLUDED.rules,
       doors = EXCLUDED.doors, fresh_login_s = EXCLUDED.fresh_login_s, by_admin = EXCLUDED.by_admin,
       beneath = EXCLUDED.beneath, remind_after_s = EXCLUDED.remind_after_s,
       escalate_after_s = EXCLUDED.escalate_after_s, escalate_to = EXCLUDED.escalate_to,
       remember_max_s = EXCLUDED.remember_max_s, updated_at = now()
RETURNING updated_at;

-- name: standing
-- Whether the tool may be called, for the transaction of the call.
SELECT t.enabled, p.accepted_hash, p.accepted_at, p.pending_hash IS NOT NULL AS is_changed
  FROM tools t LEFT JOIN tool_pins p USING (tool_id)
 WHERE t.tool_id = $1;

-- name: governance
-- What workers must know beside what they offer themselves: the few tools that an admin or a change has touched, and
-- which of the servers' tools are accepted.
SELECT t.tool_id, t.enabled, t.given_name, t.given_description, t.redact, p.accepted_hash,
       p.pending_hash IS NOT NULL AS is_changed
  FROM tools t LEFT JOIN tool_pins p USING (tool_id)
 WHERE NOT t.enabled OR t.given_name IS NOT NULL OR t.given_description IS NOT NULL OR t.redact <> '{}'
    OR p.tool_id IS NOT NULL;

-- name: govern
UPDATE tools SET enabled = $2, given_name = $3, given_description = $4, redact = $5 WHERE tool_id = $1;

-- name: own_values
SELECT name, description, enabled, given_name, given_description, redact FROM tools WHERE tool_id = $1 FOR UPDATE;

-- name: name_taken
SELECT tool_id FROM tools
 WHERE tool_id <> $1 AND (given_name = $2 OR (status = 'available' AND given_name IS NULL AND name = $2)) LIMIT 1;

-- name: usage
-- Of the last 1,000 calls of each tool: how many, how many went wrong, and the last one.
SELECT t.tool_id, count(e.claimed_at) AS calls, max(e.claimed_at) AS last_used_at,
       count(*) FILTER (WHERE e.status IN ('failed', 'outcome_unknown')) AS failures
  FROM unnest($1::uuid[]) AS t (tool_id)
  LEFT JOIN LATERAL (
       SELECT claimed_at, status FROM executions x
        WHERE x.tool_id = t.tool_id ORDER BY claimed_at DESC LIMIT 1000) e ON true
 GROUP BY t.tool_id;

-- name: notify
SELECT pg_notify('opsagent_tools', $1);
