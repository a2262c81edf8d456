-- name: insert
INSERT INTO approvals (approval_id, session_id, turn_id, tool_call_id, tool_id, tool_name, schema_hash, args, args_digest,
       args_proposed, requested_by, requested_reason, status, approvers, quorum, four_eyes, reason, decided_at, handled_at,
       expires_at, doors, fresh_login_s, remind_at, escalate_at, escalate_to)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $8, $10, $11, $12, $13, $14, $15, $16, $17, $18,
        now() + make_interval(secs => $19), $20, $21, now() + make_interval(secs => $22),
        now() + make_interval(secs => $23), $24)
ON CONFLICT (session_id, tool_call_id) DO NOTHING;

-- name: lock_session
-- The thread's lock, by one of its approvals: two decisions on one thread settle in order.
SELECT s.session_id FROM approvals a JOIN user_sessions s USING (session_id)
 WHERE a.approval_id = $1 FOR NO KEY UPDATE OF s;

-- name: read
SELECT a.*, opsagent_approval_extras(a.session_id, a.tool_call_id, a.tool_id) AS extras FROM approval_records a
 WHERE a.approval_id = $1;

-- name: read_of_call
SELECT a.*, opsagent_approval_extras(a.session_id, a.tool_call_id, a.tool_id) AS extras FROM approval_records a
 WHERE a.session_id = $1 AND a.tool_call_id = $2;

-- name: of_turn
SELECT a.*, opsagent_approval_extras(a.session_id, a.tool_call_id, a.tool_id) AS extras FROM approval_records a
 WHERE a.turn_id = $1 AND a.status = $2 ORDER BY a.created_at, a.approval_id;

-- name: list
SELECT a.*, opsagent_approval_extras(a.session_id, a.tool_call_id, a.tool_id) AS extras FROM approval_records a
 WHERE a.status = $1 AND (a.created_at, a.approval_id) < ($2, $3)
 ORDER BY a.created_at DESC, a.approval_id DESC LIMIT $4;

-- name: list_of_requester
SELECT a.*, opsagent_approval_extras(a.session_id, a.tool_call_id, a.tool_id) AS extras FROM approval_records a
 WHERE a.requested_by = $5 AND a.status = $1 AND (a.created_at, a.approval_id) < ($2, $3)
 ORDER BY a.created_at DESC, a.approval_id DESC LIMIT $4;

-- name: names_somebody
-- Whether an approval of this status names one of these as its approver, or has come to them by escalation.
SELECT EXISTS (
       SELECT 1 FROM approvals a CROSS JOIN LATERAL unnest(
              coalesce(a.approvers, '{}') || CASE WHEN a.escalated_at IS NOT NULL THEN a.escalate_to END) entry
        WHERE a.status = $1 AND (a.approvers IS NOT NULL OR a.escalated_at IS NOT NULL)
          AND lower(entry) = ANY($2::text[]));

-- name: save
UPDATE approvals SET status = $2, args = $3, args_digest = $4, decided_by = $5, decided_at = $6, reason = $7
 WHERE approval_id = $1;

-- name: save_vote
INSERT INTO votes (approval_id, voter_id, decision, reason, args_digest, at, door, login_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (approval_id, voter_id) DO UPDATE SET decision = EXCLUDED.decision, reason = EXCLUDED.reason,
       args_digest = EXCLUDED.args_digest, at = EXCLUDED.at, door = EXCLUDED.door, login_at = EXCLUDED.login_at;

-- name: clock
-- The time that decides who comes too late: the database's, after the wait for the thread's lock.
SELECT clock_timestamp();

-- name: drop_votes
DELETE FROM votes WHERE approval_id = $1 AND voter_id = ANY($2::uuid[]);

-- name: extend
UPDATE approvals SET expires_at = $2 WHERE approval_id = $1;

-- name: reassign
UPDATE approvals SET approvers = $2, overruled = $3 WHERE approval_id = $1;

-- name: handle
UPDATE approvals SET handled_at = now() WHERE approval_id = $1 AND handled_at IS NULL;

-- name: unhandled
-- Whether a settled decision of the thread waits to be taken note of.
SELECT EXISTS (
       SELECT 1 FROM approvals
        WHERE session_id = $1 AND turn_id = $2 AND status <> 'pending' AND handled_at IS NULL);

-- name: leave_none_open
-- What a turn that ends early leaves behind: what was pending, or approved and never started, is cancelled.
UPDATE approvals
   SET handled_at = now(),
       reason = CASE WHEN status IN ('pending', 'approved') THEN $2 ELSE reason END,
       decided_at = coalesce(decided_at, now()),
       status = CASE WHEN status IN ('pending', 'approved') THEN 'cancelled' ELSE status END
 WHERE session_id = $1 AND turn_id = $3 AND handled_at IS NULL
RETURNING approval_id, status;

-- name: expired
SELECT approval_id, session_id FROM approvals WHERE status = 'pending' AND expires_at <= now()
 ORDER BY expires_at LIMIT 100;

-- name: expire
UPDATE approvals SET status = 'expired', decided_at = now()
 WHERE approval_id = $1 AND status = 'pending' AND expires_at <= now()
RETURNING turn_id;

-- name: to_remind
SELECT approval_id, session_id FROM approvals
 WHERE status = 'pending' AND reminded_at IS NULL AND remind_at <= now() AND expires_at > now()
 ORDER BY remind_at LIMIT 100;

-- name: to_escalate
SELECT approval_id, session_id FROM approvals
 WHERE status = 'pending' AND escalated_at IS NULL AND escalate_at <= now() AND expires_at > now()
 ORDER BY escalate_at LIMIT 100;

-- name: remind
-- The compare-and-set of the sweeps of all replicas: who gets no row back tells nobody.
UPDATE approvals SET reminded_at = now()
 WHERE approval_id = $1 AND status = 'pending' AND reminded_at IS NULL AND remind_at <= now() AND expires_at > now()
RETURNING approval_id;

-- name: escalate
-- The same for who is asked next.
UPDATE approvals SET escalated_at = now()
 WHERE approval_id = $1 AND status = 'pending' AND escalated_at IS NULL AND escalate_at <= now() AND expires_at > now()
RETURNING approval_id;

-- name: of_single_turn
-- The approval of a turn that is one call: the one asked for with it, or the one whose call it runs again.
SELECT a.*, opsagent_approval_extras(a.session_id, a.tool_call_id, a.tool_id) AS extras FROM (
       SELECT d.* FROM approval_records d
        WHERE d.turn_id = $1
       UNION ALL
       SELECT d.* FROM resolutions r JOIN approval_records d USING (approval_id)
        WHERE r.turn_id = $1
       LIMIT 1) a;

-- name: forget_previews
-- What was previewed in a session that is no more.
DELETE FROM approval_previews p USING approvals a WHERE a.approval_id = p.approval_id AND a.session_id = $1;
