-- name: due
-- Calls that wait for people and have no preview for their arguments as they are, of tools as the asker has them.
SELECT a.approval_id
  FROM approvals a
  JOIN unnest($1::uuid[], $2::text[]) AS offered (tool_id, schema_hash)
    ON offered.tool_id = a.tool_id AND offered.schema_hash = a.schema_hash
 WHERE a.status = 'pending' AND a.expires_at > now()
   AND NOT EXISTS (SELECT 1 FROM approval_previews p WHERE p.approval_id = a.approval_id AND p.args_digest = a.args_digest)
 ORDER BY a.created_at LIMIT 20;

-- name: claim
-- The compare-and-set of all replicas: who gets no row back makes no preview.
INSERT INTO approval_previews (approval_id, args_digest)
SELECT approval_id, args_digest FROM approvals
 WHERE approval_id = $1 AND args_digest = $2 AND status = 'pending' AND expires_at > now()
ON CONFLICT (approval_id, args_digest) DO NOTHING
RETURNING approval_id;

-- name: save
UPDATE approval_previews SET made_at = now(), ok = $3, text = $4
 WHERE approval_id = $1 AND args_digest = $2 AND made_at IS NULL
RETURNING approval_id;
