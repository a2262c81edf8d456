-- name: lease
-- Sessions whose door has something to render, taken by one presenter for $3 seconds.
WITH free AS (
    SELECT session_id FROM deliveries
     WHERE door = $1 AND ($4::uuid IS NULL OR session_id = $4)
       AND (leased_until IS NULL OR leased_until < now()) AND (retry_at IS NULL OR retry_at <= now())
     LIMIT $5 FOR UPDATE SKIP LOCKED)
UPDATE deliveries d SET owner = $2, leased_until = now() + make_interval(secs => $3)
  FROM free, user_sessions s
 WHERE d.session_id = free.session_id AND s.session_id = d.session_id
RETURNING d.session_id, s.address, s.delivered_seq, d.attempts;

-- name: renew
UPDATE deliveries SET leased_until = now() + make_interval(secs => $3) WHERE session_id = $1 AND owner = $2
RETURNING session_id;

-- name: lock
SELECT session_id FROM deliveries WHERE session_id = $1 AND owner = $2 FOR UPDATE;

-- name: advance
-- The cursor; says whether more events have come. The row lock orders this against a new event.
UPDATE user_sessions SET delivered_seq = greatest(delivered_seq, $2) WHERE session_id = $1
RETURNING last_seq > delivered_seq AS more;

-- name: behind_cursor
-- Whether events are there to render: some may be gone with a cleared transcript. A statement of its own, after the
-- cursor's: that one may have waited for the event's transaction, and its snapshot is older than the wait.
SELECT EXISTS (
       SELECT 1 FROM events e JOIN user_sessions s USING (session_id)
        WHERE e.session_id = $1 AND e.seq > s.delivered_seq);

-- name: finish
DELETE FROM deliveries WHERE session_id = $1 AND owner = $2;

-- name: keep
UPDATE deliveries SET attempts = 0, leased_until = now() + make_interval(secs => $3) WHERE session_id = $1 AND owner = $2;

-- name: retry
UPDATE deliveries SET owner = NULL, leased_until = NULL, attempts = attempts + 1,
       retry_at = now() + make_interval(secs => $3)
 WHERE session_id = $1 AND owner = $2;

-- name: begin_post
INSERT INTO posts AS p (session_id, key, digest) VALUES ($1, $2, $3)
ON CONFLICT (session_id, key) DO UPDATE SET key = EXCLUDED.key
RETURNING key, ref, digest, p.xmax <> 0 AS begun_before;

-- name: record_post
UPDATE posts SET ref = $3, digest = $4 WHERE session_id = $1 AND key = $2;

-- name: find_post
SELECT key, ref, digest FROM posts WHERE session_id = $1 AND key = $2;

-- name: forget
DELETE FROM posts WHERE session_id = $1;
