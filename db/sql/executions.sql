-- name: read
-- A call's entry, if it has one, and whether anybody was asked about it.
SELECT e.tool_call_id, e.approval_id, e.args_digest, e.status, e.result, e.runs,
       EXISTS (SELECT 1 FROM approvals WHERE session_id = $1 AND tool_call_id = $2) AS was_asked
  FROM (VALUES (1)) one LEFT JOIN executions e ON e.session_id = $1 AND e.tool_call_id = $2;

-- name: claim
-- The compare-and-set in front of every run of a tool: who gets no row back does not run it.
INSERT INTO executions (session_id, tool_call_id, turn_id, approval_id, tool_id, tool_name, args_digest, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'running')
ON CONFLICT DO NOTHING
RETURNING runs;

-- name: claim_again
-- Only for a tool that may run again after a crash.
UPDATE executions SET runs = runs + 1, claimed_at = now()
 WHERE session_id = $1 AND tool_call_id = $2 AND status = 'running'
RETURNING runs;

-- name: finish
UPDATE executions SET status = $3, result = $4, finished_at = now()
 WHERE session_id = $1 AND tool_call_id = $2 AND status = 'running'
RETURNING approval_id;

-- name: lose
-- What was still claimed when its turn ended: nobody can tell whether it ran.
UPDATE executions SET status = 'outcome_unknown', result = $3, finished_at = now()
 WHERE session_id = $1 AND turn_id = $2 AND status = 'running'
RETURNING tool_call_id, approval_id, tool_name;

-- name: tool_of
SELECT e.tool_id, e.tool_name, coalesce(t.schema_hash, '') AS schema_hash
  FROM executions e LEFT JOIN tools t USING (tool_id) WHERE e.session_id = $1 AND e.tool_call_id = $2;

-- name: of_turn
SELECT tool_call_id, approval_id, status, result, runs FROM executions WHERE session_id = $1 AND turn_id = $2;

-- name: attach
UPDATE executions SET approval_id = $3 WHERE session_id = $1 AND tool_call_id = $2;

-- name: claim_resolved
-- The one way to a second claim of a call whose outcome is unknown: a person's word, spent here, for this digest.
WITH word AS (
     UPDATE resolutions SET claimed_at = clock_timestamp()
      WHERE turn_id = $3 AND claimed_at IS NULL AND args_digest = $4
     RETURNING approval_id)
UPDATE executions e SET status = 'running', runs = e.runs + 1, turn_id = $3, claimed_at = now(), result = NULL,
       finished_at = NULL
  FROM word
 WHERE e.session_id = $1 AND e.tool_call_id = $2 AND e.approval_id = word.approval_id
   AND e.status = 'outcome_unknown' AND e.args_digest = $4
RETURNING e.runs;

-- name: resolve
-- What a person found out about a call.
UPDATE executions SET status = $3, result = $4, finished_at = now()
 WHERE session_id = $1 AND tool_call_id = $2 AND status = 'outcome_unknown'
RETURNING approval_id;
