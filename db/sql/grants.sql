-- name: insert
INSERT INTO approval_grants (grant_id, tool_id, tool_name, schema_hash, session_id, requester_id, args_schema, granted_by,
       approval_id, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10));

-- name: live
-- What may spare a call its question, newest first; held until the end of the transaction against being revoked. Not
-- shared: calls in two threads that each count a use of one grant would wait for each other.
SELECT g.grant_id FROM approval_grants g
 WHERE g.requester_id = $1 AND g.tool_id = $2 AND g.schema_hash = $3 AND (g.session_id IS NULL OR g.session_id = $4)
   AND g.revoked_at IS NULL AND g.expires_at > now() AND g.created_at + make_interval(secs => $5) > now()
 ORDER BY g.created_at DESC, g.grant_id LIMIT 20
   FOR NO KEY UPDATE;

-- name: details
SELECT g.* FROM approval_grant_details g
 WHERE g.grant_id = ANY($1::uuid[]) ORDER BY g.created_at DESC, g.grant_id;

-- name: of_approvals
-- The grants that were given with approvals, and those that spared approvals their question.
SELECT g.approval_id AS shown_with, true AS is_given, g.* FROM approval_grant_details g
 WHERE g.approval_id = ANY($1::uuid[])
UNION ALL
SELECT a.approval_id, false, g.* FROM approvals a JOIN approval_grant_details g ON g.grant_id = a.grant_id
 WHERE a.approval_id = ANY($1::uuid[]);

-- name: given_with
SELECT approval_id FROM approval_grants WHERE grant_id = $1;

-- name: lock
SELECT grant_id FROM approval_grants WHERE grant_id = $1 FOR UPDATE;

-- name: use
WITH spared AS (UPDATE approvals SET grant_id = $1 WHERE approval_id = $2)
UPDATE approval_grants SET uses = uses + 1, last_used_at = now() WHERE grant_id = $1;

-- name: revoke
UPDATE approval_grants SET revoked_at = now(), revoked_by = $2 WHERE grant_id = $1 AND revoked_at IS NULL
RETURNING grant_id;

-- name: list
SELECT g.* FROM approval_grant_details g
 WHERE (g.created_at, g.grant_id) < ($1, $2)
 ORDER BY g.created_at DESC, g.grant_id DESC LIMIT $3;

-- name: list_of
-- What a person gave, and what spares them questions.
(SELECT g.* FROM approval_grant_details g
  WHERE g.granted_by = $4 AND (g.created_at, g.grant_id) < ($1, $2)
  ORDER BY g.created_at DESC, g.grant_id DESC LIMIT $3)
UNION
(SELECT g.* FROM approval_grant_details g
  WHERE g.requester_id = $4 AND (g.created_at, g.grant_id) < ($1, $2)
  ORDER BY g.created_at DESC, g.grant_id DESC LIMIT $3)
 ORDER BY created_at DESC, grant_id DESC LIMIT $3;

-- name: end_of_session
-- What was said in a thread ends with it: a thread that starts anew asks anew.
UPDATE approval_grants SET expires_at = now() WHERE session_id = $1 AND expires_at > now();
