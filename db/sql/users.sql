-- name: of_chat
-- The user behind a chat platform's identity, created on first contact. The lock is for two first contacts at once:
-- ON CONFLICT watches one unique index, and the second would break on another, the username's.
WITH first AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended($2::text, 0)))
INSERT INTO users (user_id, username, slack_team_id, slack_user_id, external)
SELECT $1::uuid, $2::text, $3::text, $4::text, $5::boolean FROM first
ON CONFLICT (slack_team_id, slack_user_id) WHERE slack_user_id IS NOT NULL
DO UPDATE SET external = users.external OR EXCLUDED.external
RETURNING user_id, username, role, disabled, display_name, slack_team_id, slack_user_id, external;

-- name: find_chat
SELECT user_id, username, role, disabled, display_name, slack_team_id, slack_user_id, external
  FROM users WHERE slack_team_id = $1 AND slack_user_id = $2;

-- name: read
SELECT user_id, username, role, disabled, display_name, slack_team_id, slack_user_id, external
  FROM users WHERE user_id = $1;

-- name: read_many
SELECT user_id, username, role, disabled, display_name, slack_team_id, slack_user_id, external
  FROM users WHERE user_id = ANY($1::uuid[]);

-- name: hold
SELECT user_id, merged_into FROM users WHERE user_id = $1 FOR SHARE;

-- name: known_names
SELECT lower(username) AS name FROM users WHERE lower(username) = ANY($1::text[]);

-- name: needs_profile
-- The chat identity of a user whose profile was never looked up, or more than a day ago.
SELECT slack_team_id, slack_user_id, profiled_at IS NULL AS unknown FROM users
 WHERE user_id = $1 AND slack_user_id IS NOT NULL AND (profiled_at IS NULL OR profiled_at < now() - interval '1 day');

-- name: save_profile
UPDATE users SET display_name = $2, email = $3, external = external OR $4, disabled = disabled OR $5,
       profiled_at = now(), updated_at = now()
 WHERE user_id = $1;

-- name: read_group
SELECT members, fetched_at > now() - make_interval(secs => $2) AS fresh FROM usergroups WHERE group_id = $1;

-- name: save_group
INSERT INTO usergroups (group_id, members, fetched_at) VALUES ($1, $2, now())
ON CONFLICT (group_id) DO UPDATE SET members = EXCLUDED.members, fetched_at = EXCLUDED.fetched_at;

-- name: named
-- Who approver entries name: by username, or by chat id.
SELECT user_id, username, role, disabled, display_name, slack_team_id, slack_user_id, external
  FROM users WHERE lower(username) = ANY($1::text[])
UNION
SELECT user_id, username, role, disabled, display_name, slack_team_id, slack_user_id, external
  FROM users WHERE slack_user_id = ANY($2::text[]);

-- name: of_role
-- People of a role whom a chat platform can mention.
SELECT user_id, username, role, disabled, display_name, slack_team_id, slack_user_id, external
  FROM users
 WHERE role <> 'member' AND role = $1 AND slack_user_id IS NOT NULL AND NOT disabled AND NOT external
 ORDER BY username LIMIT 25;
