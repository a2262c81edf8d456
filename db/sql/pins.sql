-- name: of_tools
SELECT tool_id, accepted_hash, pending_hash FROM tool_pins WHERE tool_id = ANY($1::uuid[]);

-- name: accept_first
-- First sight: accepted in the name of whoever brought the server in.
INSERT INTO tool_pins (tool_id, server, accepted_hash, accepted, accepted_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tool_id) DO NOTHING;

-- name: quarantine
-- What the server says now; also where it says again what was accepted: an admin has to look, once it has changed.
UPDATE tool_pins SET pending_hash = $2, pending = $3, changed_at = now(), kept_by = NULL, kept_at = NULL
 WHERE tool_id = $1 AND coalesce(pending_hash, accepted_hash) <> $2
RETURNING accepted_hash;

-- name: lock_changed
-- The quarantined tools of a server, locked so that what is accepted is what was looked at.
SELECT tool_id, pending_hash FROM tool_pins
 WHERE server = $1 AND pending_hash IS NOT NULL ORDER BY tool_id FOR UPDATE;

-- name: accept
UPDATE tool_pins
   SET accepted_hash = pending_hash, accepted = pending, accepted_by = $2, accepted_at = now(), pending_hash = NULL,
       pending = NULL, changed_at = NULL, kept_by = NULL, kept_at = NULL
 WHERE tool_id = ANY($1::uuid[]) AND pending_hash IS NOT NULL
RETURNING tool_id, accepted_hash;

-- name: read
SELECT tool_id, server, accepted_hash, accepted, accepted_by, accepted_at, pending_hash, pending, changed_at
  FROM tool_pins WHERE tool_id = $1;

-- name: changed_by_server
SELECT server, array_agg(tool_id ORDER BY tool_id) AS tool_ids FROM tool_pins
 WHERE pending_hash IS NOT NULL GROUP BY server;

-- name: accept_anew
-- The server has another address, by an admin or by the operator's file: what was approved before was approved for the old one.
UPDATE tool_pins SET accepted_at = now(), accepted_by = $2 WHERE server = $1;

-- name: forget
DELETE FROM tool_pins WHERE server = $1;

-- name: pending_approvals
-- Approvals that wait for a tool which may not be called as it is now.
SELECT a.approval_id, a.session_id
  FROM approvals a JOIN tool_pins p USING (tool_id)
 WHERE a.status = 'pending' AND (p.pending_hash IS NOT NULL OR p.accepted_at > a.created_at)
 ORDER BY a.approval_id LIMIT 500;

-- name: cancel_approval
-- Looked at again under the thread's lock.
UPDATE approvals a SET status = 'cancelled', decided_at = now(), reason = $2
 WHERE a.approval_id = $1 AND a.status = 'pending'
RETURNING a.turn_id, a.tool_name;
