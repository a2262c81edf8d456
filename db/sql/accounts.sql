-- name: create
INSERT INTO users (user_id, username, email, password_hash, role) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING user_id, username, email, role, disabled, display_name, slack_team_id, slack_user_id, external, created_at,
          updated_at;

-- name: read
SELECT user_id, username, email, role, disabled, display_name, slack_team_id, slack_user_id, external, created_at,
       updated_at, token_version
  FROM users WHERE user_id = $1;

-- name: credentials
SELECT user_id, password_hash, token_version, disabled FROM users WHERE lower(username) = lower($1);

-- name: password
SELECT password_hash FROM users WHERE user_id = $1;

-- name: list
SELECT user_id, username, email, role, disabled, display_name, slack_team_id, slack_user_id, external, created_at,
       updated_at
  FROM users WHERE (created_at, user_id) < ($1, $2) AND merged_into IS NULL
 ORDER BY created_at DESC, user_id DESC LIMIT $3;

-- name: list_of_chat_user
SELECT user_id, username, email, role, disabled, display_name, slack_team_id, slack_user_id, external, created_at,
       updated_at
  FROM users WHERE slack_user_id = $1 AND slack_user_id IS NOT NULL;

-- name: update_profile
UPDATE users SET email = $2, display_name = $3, updated_at = now() WHERE user_id = $1;

-- name: set_password
-- A new password ends what the old one opened.
UPDATE users SET password_hash = $2, token_version = token_version + 1, updated_at = now() WHERE user_id = $1;

-- name: rehash
UPDATE users SET password_hash = $2 WHERE user_id = $1;

-- name: update_standing
UPDATE users SET role = $2, disabled = $3, updated_at = now(),
       token_version = token_version + CASE WHEN $3 AND NOT disabled THEN 1 ELSE 0 END
 WHERE user_id = $1
RETURNING user_id, username, email, role, disabled, display_name, slack_team_id, slack_user_id, external, created_at,
          updated_at;

-- name: lock
SELECT user_id, username, role, disabled, external, slack_team_id, slack_user_id,
       password_hash IS NOT NULL AS can_log_in
  FROM users WHERE user_id = $1 FOR UPDATE;

-- name: end_tokens
UPDATE users SET token_version = token_version + 1 WHERE user_id = $1;

-- name: find_chat_user
SELECT user_id, slack_team_id, slack_user_id FROM users
 WHERE slack_user_id = $1 AND ($2::text IS NULL OR slack_team_id = $2) AND slack_user_id IS NOT NULL;

-- name: leave_chat
-- The chat identity leaves its own row, for the account that takes it over.
UPDATE users SET slack_team_id = NULL, slack_user_id = NULL, disabled = true, merged_into = $2,
       token_version = token_version + 1, updated_at = now()
 WHERE user_id = $1;

-- name: join_chat
UPDATE users SET slack_team_id = $2, slack_user_id = $3, external = external OR $4, updated_at = now() WHERE user_id = $1;

-- name: differing_rows
-- A tool for which both have a policy row, and not the same one.
SELECT a.tool_name FROM tool_approval_config a JOIN tool_approval_config b USING (tool_id)
 WHERE a.user_id = $1 AND b.user_id = $2
   AND (a.auto_execute, a.approval_required, a.by_admin, a.approvers, a.quorum, a.four_eyes, a.expires_in_s,
        a.doors, a.fresh_login_s, a.remind_after_s, a.escalate_after_s, a.escalate_to,
        a.remember_max_s, a.rules::jsonb, a.beneath::jsonb)
       IS DISTINCT FROM
       (b.auto_execute, b.approval_required, b.by_admin, b.approvers, b.quorum, b.four_eyes, b.expires_in_s,
        b.doors, b.fresh_login_s, b.remind_after_s, b.escalate_after_s, b.escalate_to,
        b.remember_max_s, b.rules::jsonb, b.beneath::jsonb)
 ORDER BY a.tool_name LIMIT 1;

-- name: drop_same_rows
DELETE FROM tool_approval_config a USING tool_approval_config b
 WHERE a.user_id = $1 AND b.user_id = $2 AND a.tool_id = b.tool_id;

-- name: move_rows
UPDATE tool_approval_config SET user_id = $2 WHERE user_id = $1;

-- name: lock_threads
-- The threads in which something of a user's will change hands, before the user: who decides in one locks it first, too.
SELECT session_id FROM user_sessions
 WHERE session_id = ANY(ARRAY(
       SELECT session_id FROM user_sessions WHERE user_id = $1
       UNION
       SELECT session_id FROM turns WHERE requester_id = $1 AND status IN ('queued', 'running', 'awaiting_approval')
       UNION
       SELECT a.session_id FROM votes v JOIN approvals a USING (approval_id)
        WHERE v.voter_id = $1 AND a.status = 'pending'))
 ORDER BY session_id FOR NO KEY UPDATE;

-- name: drop_votes
-- Two names of one person must not be two votes; whoever they are now may vote again.
DELETE FROM votes v USING approvals a
 WHERE v.voter_id = $1 AND a.approval_id = v.approval_id AND a.status = 'pending';

-- name: move_sessions
UPDATE user_sessions SET user_id = $2 WHERE user_id = $1;

-- name: move_turns
UPDATE turns SET requester_id = $2 WHERE requester_id = $1 AND status IN ('queued', 'running', 'awaiting_approval');

-- name: move_approvals
-- What is not over: undecided, decided and not acted on, or of an outcome that nobody knows.
UPDATE approvals a SET requested_by = $2
 WHERE a.requested_by = $1
   AND (a.status = 'pending' OR a.handled_at IS NULL OR EXISTS (
        SELECT 1 FROM executions e
         WHERE e.session_id = a.session_id AND e.tool_call_id = a.tool_call_id
           AND e.status IN ('running', 'outcome_unknown')));

-- name: move_questions
UPDATE questions SET asked_of = $2 WHERE asked_of = $1 AND status = 'open';

-- name: save_link_code
INSERT INTO link_codes (user_id, code_hash, slack_team_id, slack_user_id, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
ON CONFLICT (user_id) DO UPDATE SET code_hash = EXCLUDED.code_hash, slack_team_id = EXCLUDED.slack_team_id,
       slack_user_id = EXCLUDED.slack_user_id, expires_at = EXCLUDED.expires_at, attempts = 0;

-- name: try_link_code
-- Counts the attempt before anything is compared.
UPDATE link_codes SET attempts = attempts + 1 WHERE user_id = $1 AND expires_at > now() AND attempts < 5
RETURNING code_hash, slack_team_id, slack_user_id;

-- name: drop_link_code
DELETE FROM link_codes WHERE user_id = $1;

-- name: create_token
INSERT INTO service_tokens (token_id, name, token_hash, user_id, scopes, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
ON CONFLICT DO NOTHING
RETURNING token_id, name, user_id, scopes, created_by, created_at, expires_at, revoked_at;

-- name: find_token
SELECT t.token_id, t.user_id, t.scopes, t.expires_at FROM service_tokens t
 WHERE t.token_hash = $1 AND t.revoked_at IS NULL AND t.expires_at > now();

-- name: list_tokens
SELECT t.token_id, t.name, t.user_id, t.scopes, t.created_by, t.created_at, t.expires_at, t.revoked_at, u.role
  FROM service_tokens t JOIN users u USING (user_id)
 WHERE (t.created_at, t.token_id) < ($1, $2) ORDER BY t.created_at DESC, t.token_id DESC LIMIT $3;

-- name: revoke_token
UPDATE service_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE token_id = $1
RETURNING token_id, name, user_id;

-- name: disable_user
UPDATE users SET disabled = true, token_version = token_version + 1, updated_at = now() WHERE user_id = $1;

-- name: hit
-- One more of a limit's counter; a window that is over starts anew.
INSERT INTO rate_limits AS r (key, count, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (key) DO UPDATE SET
       count = CASE WHEN r.expires_at <= now() THEN EXCLUDED.count ELSE r.count + EXCLUDED.count END,
       expires_at = CASE WHEN r.expires_at <= now() THEN EXCLUDED.expires_at ELSE r.expires_at END
RETURNING count;

-- name: hits
SELECT count FROM rate_limits WHERE key = $1 AND expires_at > now();

-- name: hits_expire
SELECT extract(epoch FROM expires_at)::float8 FROM rate_limits WHERE key = $1 AND expires_at > now();

-- name: drop_hits
DELETE FROM rate_limits WHERE key = $1;

-- name: drop_old_hits
-- What is being counted or dropped just now is left to the next sweep: sweeps of several replicas never wait in a ring.
DELETE FROM rate_limits WHERE key IN (
       SELECT key FROM rate_limits WHERE expires_at < now() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED);
