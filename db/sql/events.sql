-- name: append
SELECT opsagent_append_event($1, $2, $3, $4, $5);

-- name: read
SELECT session_id, seq, kind, data, at FROM events WHERE session_id = $1 AND seq > $2 ORDER BY seq LIMIT $3;

-- name: read_with_session
-- The session's own columns stand in every row, and alone in one row where there is nothing new.
SELECT s.session_id, s.user_id, s.title, s.source, s.created_at, s.expires_at, s.door, s.address,
       s.expires_at <= now() AS expired, e.seq, e.kind, e.data, e.at
  FROM user_sessions s LEFT JOIN LATERAL (
       SELECT seq, kind, data, at FROM events
        WHERE session_id = s.session_id AND seq > $2 ORDER BY seq LIMIT $3) e ON true
 WHERE s.session_id = $1 AND s.deleted_at IS NULL ORDER BY e.seq;

-- name: last
SELECT last_seq FROM user_sessions WHERE session_id = $1;

-- name: drop_deltas
-- The pieces of an answer that now stands whole in the log, and how far calls were that have ended.
DELETE FROM events WHERE session_id = $1 AND seq >= $2 AND turn_id = $3 AND kind IN ('answer.delta', 'tool.progress');

-- name: drop_progress
-- What a call said before of how far it is: its next word stands in for it.
DELETE FROM events WHERE session_id = $1 AND seq = $2 AND kind = 'tool.progress';

-- name: forget
-- What people wrote, what was answered and asked of tools. How approvals and turns ended stays: doors still render it.
DELETE FROM events
 WHERE session_id = $1 AND kind IN ('turn.queued', 'answer.delta', 'tool.progress', 'tool.called', 'turn.completed', 'turn.failed');
