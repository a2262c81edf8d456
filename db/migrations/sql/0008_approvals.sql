-- When people are reminded of an approval, and who is asked after them.
ALTER TABLE tool_approval_config
    ADD COLUMN remind_after_s integer CHECK (remind_after_s > 0),
    ADD COLUMN escalate_after_s integer CHECK (escalate_after_s > 0),
    ADD COLUMN escalate_to text[],
    ADD CHECK ((escalate_after_s IS NULL) = (escalate_to IS NULL));

ALTER TABLE approvals
    ADD COLUMN remind_at timestamptz,
    ADD COLUMN reminded_at timestamptz,
    ADD COLUMN escalate_at timestamptz,
    ADD COLUMN escalate_to text[],
    ADD COLUMN escalated_at timestamptz,
    ADD COLUMN overruled json;
COMMENT ON COLUMN approvals.reminded_at IS 'Set once, by whoever tells people: the compare-and-set of all sweeps';
COMMENT ON COLUMN approvals.overruled IS 'The approvers that policy named when an admin gave this approval others';
CREATE INDEX approvals_to_remind ON approvals (remind_at) WHERE status = 'pending' AND reminded_at IS NULL;
CREATE INDEX approvals_to_escalate ON approvals (escalate_at) WHERE status = 'pending' AND escalated_at IS NULL;
DROP INDEX approvals_naming_people;
CREATE INDEX approvals_naming_people ON approvals (status) WHERE approvers IS NOT NULL OR escalated_at IS NOT NULL;

-- What a person said of a call whose outcome is unknown. That it runs again is claimed once, by the turn made for it.
CREATE TABLE resolutions (
    resolution_id uuid PRIMARY KEY,
    approval_id uuid NOT NULL REFERENCES approvals,
    action text NOT NULL CHECK (action IN ('run_again', 'done', 'failed')),
    resolved_by uuid NOT NULL REFERENCES users,
    reason text,
    args_digest text NOT NULL,
    turn_id uuid REFERENCES turns,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_at timestamptz,
    door text,
    login_at timestamptz,
    CHECK ((action = 'run_again') = (turn_id IS NOT NULL))
);
CREATE INDEX resolutions_of_approval ON resolutions (approval_id, at);
CREATE UNIQUE INDEX resolutions_of_turn ON resolutions (turn_id) WHERE turn_id IS NOT NULL;

-- Who approvers are, for people who read of them.
CREATE INDEX users_by_chat_user ON users (slack_user_id) WHERE slack_user_id IS NOT NULL;
CREATE INDEX users_by_role ON users (role) WHERE role <> 'member';

-- All of an approval. The view beneath it stays as it is, for the release that still runs while this one comes.
CREATE VIEW approval_records AS
SELECT d.*, a.escalate_to, a.escalated_at, a.overruled,
       (SELECT json_agg(json_build_object(
                   'user_id', r.resolved_by, 'username', u.username, 'display_name', u.display_name,
                   'chat_user', u.slack_user_id, 'resolution_id', r.resolution_id, 'action', r.action,
                   'reason', r.reason, 'at', r.at) ORDER BY r.at)
          FROM resolutions r JOIN users u ON u.user_id = r.resolved_by
         WHERE r.approval_id = d.approval_id) AS resolutions
  FROM approval_details d JOIN approvals a USING (approval_id);
