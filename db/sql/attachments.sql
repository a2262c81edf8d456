-- name: insert
INSERT INTO attachments (attachment_id, session_id, turn_id, tool_call_id, position, kind, name, media_type, size, content)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: size_of_session
SELECT coalesce(sum(size), 0) FROM attachments WHERE session_id = $1;

-- name: next_position
SELECT coalesce(max(position) + 1, 0) FROM attachments WHERE session_id = $1 AND tool_call_id = $2;

-- name: read
SELECT attachment_id, kind, name, media_type, size, tool_call_id, created_at, content
  FROM attachments WHERE attachment_id = $1 AND session_id = $2;

-- name: of_turn
SELECT attachment_id, kind, name, media_type, size, tool_call_id, created_at
  FROM attachments WHERE turn_id = $1 ORDER BY created_at, tool_call_id, position;

-- name: forget
DELETE FROM attachments WHERE session_id = $1;

-- name: expire
DELETE FROM attachments WHERE attachment_id = ANY(ARRAY(
       SELECT attachment_id FROM attachments WHERE created_at < now() - make_interval(days => $1)
        ORDER BY created_at LIMIT 100));
