-- name: create
INSERT INTO user_sessions (session_id, user_id, title, source, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
RETURNING session_id, user_id, title, source, created_at, expires_at, door, address;

-- name: open_thread
-- A chat thread's session: made by the first who comes, locked by everyone who comes; a deleted one starts anew.
INSERT INTO user_sessions (session_id, user_id, title, source, door, address)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (session_id) DO UPDATE SET deleted_at = NULL
RETURNING session_id;

-- name: lock
-- The thread's lock, taken before anything of the thread is read in order to write.
SELECT session_id, user_id, title, source, created_at, expires_at, door, address, deleted_at,
       expires_at <= now() AS expired
  FROM user_sessions WHERE session_id = $1 FOR NO KEY UPDATE;

-- name: read
SELECT session_id, user_id, title, source, created_at, expires_at, door, address,
       expires_at <= now() AS expired
  FROM user_sessions WHERE session_id = $1 AND deleted_at IS NULL;

-- name: list_of_user
SELECT session_id, user_id, title, source, created_at, expires_at, door, address FROM user_sessions
 WHERE user_id = $1 AND deleted_at IS NULL AND (created_at, session_id) < ($2, $3)
 ORDER BY created_at DESC, session_id DESC LIMIT $4;

-- name: list_all
SELECT session_id, user_id, title, source, created_at, expires_at, door, address FROM user_sessions
 WHERE deleted_at IS NULL AND (created_at, session_id) < ($1, $2)
 ORDER BY created_at DESC, session_id DESC LIMIT $3;

-- name: delete
-- The new epoch throws out a worker that still runs a turn of it.
UPDATE user_sessions SET deleted_at = now(), epoch = epoch + 1, title = NULL WHERE session_id = $1;

-- name: raise_epoch
-- The first statement of a job: from here on, whoever held the thread before can write nothing of it.
UPDATE user_sessions SET epoch = epoch + 1 WHERE session_id = $1 RETURNING epoch;

-- name: fence
SELECT opsagent_fence($1, $2);

-- name: expired
SELECT session_id FROM user_sessions WHERE expires_at < now() AND deleted_at IS NULL ORDER BY expires_at LIMIT 100;

-- name: forget_checkpoints
DELETE FROM checkpoints WHERE thread_id = $1;

-- name: forget_blobs
DELETE FROM checkpoint_blobs WHERE thread_id = $1;

-- name: forget_writes
DELETE FROM checkpoint_writes WHERE thread_id = $1;

-- name: prune_checkpoints
-- See opsagent_prune_checkpoints in the migration on round trips.
SELECT opsagent_prune_checkpoints($1);
