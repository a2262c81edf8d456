-- name: list
SELECT p.id, p.tool_id, p.tool_name, p.user_id, u.username, p.auto_execute, p.approval_required, p.by_admin, p.approvers,
       p.quorum, p.four_eyes, p.expires_in_s, p.doors, p.fresh_login_s,
       p.remind_after_s, p.escalate_after_s, p.escalate_to, p.remember_max_s, p.rules::text AS rules,
       p.beneath::text AS beneath, p.created_at, p.updated_at
  FROM tool_approval_config p LEFT JOIN users u USING (user_id)
 WHERE (p.created_at, p.id) < ($1, $2)
 ORDER BY p.created_at DESC, p.id DESC LIMIT $3;

-- name: list_of_tool
SELECT p.id, p.tool_id, p.tool_name, p.user_id, u.username, p.auto_execute, p.approval_required, p.by_admin, p.approvers,
       p.quorum, p.four_eyes, p.expires_in_s, p.doors, p.fresh_login_s,
       p.remind_after_s, p.escalate_after_s, p.escalate_to, p.remember_max_s, p.rules::text AS rules,
       p.beneath::text AS beneath, p.created_at, p.updated_at
  FROM tool_approval_config p LEFT JOIN users u USING (user_id)
 WHERE p.tool_id = $4 AND (p.created_at, p.id) < ($1, $2)
 ORDER BY p.created_at DESC, p.id DESC LIMIT $3;

-- name: list_of_user
-- One user's rows, of every tool or of one.
SELECT p.id, p.tool_id, p.tool_name, p.user_id, u.username, p.auto_execute, p.approval_required, p.by_admin, p.approvers,
       p.quorum, p.four_eyes, p.expires_in_s, p.doors, p.fresh_login_s,
       p.remind_after_s, p.escalate_after_s, p.escalate_to, p.remember_max_s, p.rules::text AS rules,
       p.beneath::text AS beneath, p.created_at, p.updated_at
  FROM tool_approval_config p LEFT JOIN users u USING (user_id)
 WHERE p.user_id = $4 AND ($5::uuid IS NULL OR p.tool_id = $5) AND (p.created_at, p.id) < ($1, $2)
 ORDER BY p.created_at DESC, p.id DESC LIMIT $3;

-- name: read
SELECT p.id, p.tool_id, p.tool_name, p.user_id, u.username, p.auto_execute, p.approval_required, p.by_admin, p.approvers,
       p.quorum, p.four_eyes, p.expires_in_s, p.doors, p.fresh_login_s,
       p.remind_after_s, p.escalate_after_s, p.escalate_to, p.remember_max_s, p.rules::text AS rules,
       p.beneath::text AS beneath, p.created_at, p.updated_at
  FROM tool_approval_config p LEFT JOIN users u USING (user_id)
 WHERE p.id = $1;

-- name: delete
DELETE FROM tool_approval_config WHERE id = $1;

-- name: tool_named
-- The tool that models call by this name; one that is offered now comes first.
SELECT tool_id FROM tools WHERE coalesce(given_name, name) = $1 ORDER BY status, seen_at DESC LIMIT 1;

-- name: user_named
SELECT user_id FROM users WHERE lower(username) = lower($1);
