-- name: claim
-- A card for each change and each admin whom Slack knows. A server that changes a tool again and again gets one card in
-- $1 seconds: of the change that stands then.
INSERT INTO change_cards (tool_id, schema_hash, user_id, server, accepted, pending)
SELECT p.tool_id, p.pending_hash, u.user_id, p.server, p.accepted, p.pending
  FROM tool_pins p CROSS JOIN users u
 WHERE p.pending_hash IS NOT NULL
   AND u.role = 'admin' AND NOT u.disabled AND NOT u.external AND u.slack_user_id IS NOT NULL AND u.merged_into IS NULL
   AND NOT EXISTS (
       SELECT 1 FROM change_cards c
        WHERE c.tool_id = p.tool_id AND c.user_id = u.user_id
          AND (c.schema_hash = p.pending_hash OR c.created_at > now() - make_interval(secs => $1)))
ON CONFLICT DO NOTHING;

-- name: lease
-- Cards that show something else than how their change stands, taken by one presenter for $2 seconds. One that was
-- never begun and is settled by now is not posted any more.
WITH due AS (
    SELECT c.tool_id, c.schema_hash, c.user_id, c.owner IS NOT NULL AS begun_before, s.state
      FROM change_cards c LEFT JOIN tool_pins p USING (tool_id)
           CROSS JOIN LATERAL (SELECT CASE
               WHEN p.tool_id IS NULL THEN 'gone'
               WHEN p.pending_hash = c.schema_hash AND p.kept_at IS NULL THEN 'open'
               WHEN p.pending_hash = c.schema_hash THEN 'kept'
               WHEN p.pending_hash IS NULL AND p.accepted_hash = c.schema_hash THEN 'accepted'
               ELSE 'superseded' END AS state) s
     WHERE c.state IS DISTINCT FROM s.state AND (c.owner IS NOT NULL OR s.state IN ('open', 'kept'))
       AND (c.leased_until IS NULL OR c.leased_until < now()) AND (c.retry_at IS NULL OR c.retry_at <= now())
     ORDER BY c.created_at LIMIT $3 FOR UPDATE OF c SKIP LOCKED)
UPDATE change_cards c SET owner = $1, leased_until = now() + make_interval(secs => $2)
  FROM due d
  JOIN users u ON u.user_id = d.user_id
  LEFT JOIN tool_pins p ON p.tool_id = d.tool_id
  LEFT JOIN users w ON w.user_id = CASE d.state WHEN 'kept' THEN p.kept_by WHEN 'accepted' THEN p.accepted_by END
 WHERE c.tool_id = d.tool_id AND c.schema_hash = d.schema_hash AND c.user_id = d.user_id
RETURNING c.tool_id, c.schema_hash, c.user_id, c.server, c.accepted, c.pending, c.ref, c.attempts, d.begun_before, d.state,
          u.slack_user_id AS chat_user,
          w.user_id AS by_id, w.username AS by_name, w.display_name AS by_display_name, w.slack_user_id AS by_chat_user,
          CASE d.state WHEN 'kept' THEN p.kept_at WHEN 'accepted' THEN p.accepted_at END AS at;

-- name: record
UPDATE change_cards SET ref = $5, state = $6, leased_until = NULL, retry_at = NULL, attempts = 0
 WHERE tool_id = $1 AND schema_hash = $2 AND user_id = $3 AND owner = $4;

-- name: retry
UPDATE change_cards SET leased_until = NULL, attempts = attempts + 1, retry_at = now() + make_interval(secs => $5)
 WHERE tool_id = $1 AND schema_hash = $2 AND user_id = $3 AND owner = $4;

-- name: expire
DELETE FROM change_cards c
 WHERE c.created_at < now() - interval '30 days'
   AND NOT EXISTS (SELECT 1 FROM tool_pins p WHERE p.tool_id = c.tool_id AND p.pending_hash = c.schema_hash);

-- name: keep
UPDATE tool_pins SET kept_by = $3, kept_at = now()
 WHERE tool_id = $1 AND pending_hash = $2 AND kept_at IS NULL
RETURNING tool_id;
