-- name: insert
-- Mail for the thread; nothing where its event or its message was stored before.
INSERT INTO turns (turn_id, session_id, requester_id, kind, text, event_key, message_key, request_digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING turn_id, session_id, requester_id, kind, status, text, reply, error, input_tokens, output_tokens,
          cached_tokens, model_calls, created_at, finished_at, request_digest;

-- name: by_key
SELECT turn_id, session_id, requester_id, kind, status, text, reply, error, input_tokens, output_tokens,
       cached_tokens, model_calls, created_at, finished_at, request_digest
  FROM turns WHERE event_key = $1
UNION ALL
SELECT turn_id, session_id, requester_id, kind, status, text, reply, error, input_tokens, output_tokens,
       cached_tokens, model_calls, created_at, finished_at, request_digest
  FROM turns WHERE message_key = $2
LIMIT 1;

-- name: read
SELECT turn_id, session_id, requester_id, kind, status, text, reply, error, input_tokens, output_tokens,
       cached_tokens, model_calls, created_at, finished_at, request_digest
  FROM turns WHERE turn_id = $1;

-- name: open_of_session
-- The turn in hand first (there is at most one), then the mail in order; each with its requester, and whether a
-- settled decision waits to be taken note of.
SELECT t.turn_id, t.session_id, t.requester_id, t.kind, t.status, t.text, t.reply, t.error, t.input_tokens,
       t.output_tokens, t.cached_tokens, t.model_calls, t.created_at, t.finished_at, t.attempts, t.cancel_requested,
       u.user_id, u.username, u.role, u.disabled, u.display_name, u.slack_team_id, u.slack_user_id, u.external,
       t.status = 'awaiting_approval' AND EXISTS (
            SELECT 1 FROM approvals a
             WHERE a.session_id = t.session_id AND a.turn_id = t.turn_id
               AND a.status <> 'pending' AND a.handled_at IS NULL) AS is_decided
  FROM turns t JOIN users u ON u.user_id = t.requester_id
 WHERE t.session_id = $1 AND t.status IN ('queued', 'running', 'awaiting_approval')
 ORDER BY t.status = 'queued', t.ordinal LIMIT $2;

-- name: has_open
SELECT EXISTS (SELECT 1 FROM turns WHERE session_id = $1 AND status IN ('queued', 'running', 'awaiting_approval'));

-- name: waits_for_people
-- Whether the thread's turn in hand waits for an approval.
SELECT EXISTS (SELECT 1 FROM turns WHERE session_id = $1 AND status = 'awaiting_approval');

-- name: start
-- Nothing while the turn backs off from a failure: mail that wakes its thread meanwhile must not use up its attempts.
UPDATE turns SET status = 'running', attempts = attempts + 1, retry_at = NULL, started_at = coalesce(started_at, now()),
       first_seq = CASE WHEN status = 'queued' THEN
           (SELECT last_seq + 1 FROM user_sessions WHERE session_id = turns.session_id) ELSE first_seq END
 WHERE turn_id = $1 AND (retry_at IS NULL OR retry_at <= now())
RETURNING attempts;

-- name: progressed
-- A decision, a park or a drain is progress: the attempt limit counts failures in a row.
UPDATE turns SET attempts = 0 WHERE turn_id = $1;

-- name: park
UPDATE turns SET status = 'awaiting_approval', attempts = 0,
       input_tokens = $2, output_tokens = $3, cached_tokens = $4, model_calls = $5
 WHERE turn_id = $1 AND status = 'running';

-- name: back_off
UPDATE turns SET retry_at = now() + make_interval(secs => $2) WHERE turn_id = $1 AND status = 'running';

-- name: finish
UPDATE turns SET status = $2, reply = $3, error = $4, finished_at = now(), retry_at = NULL,
       input_tokens = coalesce($5, input_tokens), output_tokens = coalesce($6, output_tokens),
       cached_tokens = coalesce($7, cached_tokens), model_calls = coalesce($8, model_calls)
 WHERE turn_id = $1 AND status IN ('queued', 'running', 'awaiting_approval')
RETURNING first_seq;

-- name: request_cancel
UPDATE turns SET cancel_requested = true, retry_at = NULL
 WHERE session_id = $1 AND status IN ('running', 'awaiting_approval')
RETURNING turn_id;

-- name: is_over
-- Whether a turn in hand must stop: it was cancelled, or forgotten with its session and is cancelled already.
SELECT cancel_requested OR status = 'cancelled' FROM turns WHERE turn_id = $1;

-- name: forget
-- What people wrote and what was answered goes; the row stays, so a late redelivery still counts once.
UPDATE turns SET text = '', reply = NULL, error = NULL WHERE session_id = $1 AND (text <> '' OR reply IS NOT NULL);

-- name: notify_cancel
SELECT pg_notify('opsagent_cancel', $1::text);
