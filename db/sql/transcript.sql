-- name: append
-- Idempotent by message id: a step that runs again after a crash replaces what it wrote before.
INSERT INTO messages (message_id, session_id, turn_id, role, content, tool_calls, tool_call_id, tool_name, tokens)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (message_id) DO UPDATE SET content = EXCLUDED.content, tool_calls = EXCLUDED.tool_calls,
       tokens = EXCLUDED.tokens;

-- name: list
SELECT message_id, position, turn_id, role, content, tool_calls, tool_call_id, created_at
  FROM messages WHERE session_id = $1 AND position > $2 ORDER BY position LIMIT $3;

-- name: window
-- The newest messages before the turn in hand, newest first; the caller cuts them by tokens.
SELECT role, content, tool_calls, tool_call_id, tool_name, tokens
  FROM messages
 WHERE session_id = $1 AND position < coalesce((SELECT position FROM messages WHERE message_id = $2), 9223372036854775807)
 ORDER BY position DESC LIMIT $3;

-- name: of_turn
-- The calls of a turn, and which of them have a result. A turn's first message has the turn's id.
SELECT tool_calls, tool_call_id
  FROM messages
 WHERE session_id = $1 AND turn_id = $2 AND position > (SELECT position FROM messages WHERE message_id = $2)
 ORDER BY position;

-- name: forget
DELETE FROM messages WHERE session_id = $1;
