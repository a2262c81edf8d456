-- name: insert
INSERT INTO resolutions (resolution_id, approval_id, action, resolved_by, reason, args_digest, turn_id, door,
       login_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: of_turn
-- The word that a turn was made for, while it is not spent.
SELECT resolution_id, approval_id, resolved_by, args_digest, at, door, login_at FROM resolutions
 WHERE turn_id = $1 AND claimed_at IS NULL;

-- name: under_way
-- Whether the call is about to run again: then there is nothing else to say of it yet.
SELECT EXISTS (
       SELECT 1 FROM resolutions r JOIN turns t ON t.turn_id = r.turn_id
        WHERE r.approval_id = $1 AND t.status IN ('queued', 'running', 'awaiting_approval'));
