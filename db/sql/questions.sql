-- name: insert
INSERT INTO questions (question_id, session_id, turn_id, tool_call_id, tool_name, server, message, schema, asked_of,
       expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10));

-- name: lock_session
-- The thread's lock, by one of its questions: answer, refusal and end of time come one after another.
SELECT s.session_id FROM questions q JOIN user_sessions s USING (session_id)
 WHERE q.question_id = $1 FOR NO KEY UPDATE OF s;

-- name: read
SELECT q.* FROM question_details q WHERE q.question_id = $1;

-- name: status
SELECT status FROM questions WHERE question_id = $1;

-- name: list
SELECT q.* FROM question_details q
 WHERE q.status = $1 AND (q.created_at, q.question_id) < ($2, $3)
 ORDER BY q.created_at DESC, q.question_id DESC LIMIT $4;

-- name: list_of_person
SELECT q.* FROM question_details q
 WHERE q.asked_of = $5 AND q.status = $1 AND (q.created_at, q.question_id) < ($2, $3)
 ORDER BY q.created_at DESC, q.question_id DESC LIMIT $4;

-- name: settle
-- The compare-and-set between an answer, a refusal and the end of the time: who gets no row back came too late.
UPDATE questions SET status = $2, settled_by = $3, content = $4, settled_at = now()
 WHERE question_id = $1 AND status = 'open'
RETURNING question_id;

-- name: take
-- What was answered, for the call that asked; it is gone from here with that.
WITH given AS (
    SELECT question_id, content FROM questions WHERE question_id = $1 AND status = 'answered' FOR UPDATE)
UPDATE questions q SET content = NULL FROM given WHERE q.question_id = given.question_id
RETURNING given.content;

-- name: close_of_call
-- What a call leaves behind that ended another way: nobody waits for these, and an answer nobody took counts for nothing.
UPDATE questions SET status = 'cancelled', content = NULL, settled_at = now()
 WHERE session_id = $1 AND tool_call_id = $2 AND (status = 'open' OR content IS NOT NULL)
RETURNING question_id;

-- name: close_of_turn
UPDATE questions SET status = 'cancelled', content = NULL, settled_at = now()
 WHERE session_id = $1 AND turn_id = $2 AND (status = 'open' OR content IS NOT NULL)
RETURNING question_id;

-- name: forget
-- What was asked goes with what was said; that it was asked, and how it ended, stays.
UPDATE questions SET message = '', schema = '{}' WHERE session_id = $1;
