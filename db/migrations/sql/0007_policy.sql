-- Where a call may be approved, and how lately its approver must have entered a password.
ALTER TABLE tool_approval_config
    ADD COLUMN doors text[],
    ADD COLUMN fresh_login_s integer CHECK (fresh_login_s > 0);
CREATE INDEX tool_approval_config_newest ON tool_approval_config (created_at DESC, id DESC);
CREATE INDEX tool_approval_config_of_tool ON tool_approval_config (tool_id, created_at DESC, id DESC);

ALTER TABLE approvals
    ADD COLUMN doors text[],
    ADD COLUMN fresh_login_s integer CHECK (fresh_login_s > 0);
ALTER TABLE votes
    ADD COLUMN door text,
    ADD COLUMN login_at timestamptz;
COMMENT ON COLUMN votes.login_at IS 'When the voter had last entered a password; NULL: with a key, or where nobody does';
COMMENT ON COLUMN usergroups.group_id IS 'A user group (S...), or channel: and the id of a channel';

CREATE OR REPLACE VIEW approval_details AS
SELECT a.approval_id, a.session_id, a.turn_id, a.tool_call_id, a.tool_id, a.tool_name, a.schema_hash, a.args,
       a.args_digest, a.args_proposed, a.requested_by, a.requested_reason, a.status, a.approvers, a.quorum, a.four_eyes,
       a.decided_by, a.decided_at, a.reason, a.expires_at, a.created_at, a.handled_at,
       e.status AS execution, e.result,
       r.username AS requester_username, r.display_name AS requester_display_name, r.slack_user_id AS requester_chat_user,
       d.username AS decider_username, d.display_name AS decider_display_name, d.slack_user_id AS decider_chat_user,
       (SELECT json_agg(json_build_object(
                   'user_id', v.voter_id, 'username', u.username, 'display_name', u.display_name,
                   'chat_user', u.slack_user_id, 'decision', v.decision, 'reason', v.reason,
                   'args_digest', v.args_digest, 'at', v.at, 'door', v.door, 'login_at', v.login_at) ORDER BY v.at)
          FROM votes v JOIN users u ON u.user_id = v.voter_id
         WHERE v.approval_id = a.approval_id) AS votes,
       a.doors, a.fresh_login_s
  FROM approvals a
  JOIN users r ON r.user_id = a.requested_by
  LEFT JOIN users d ON d.user_id = a.decided_by
  LEFT JOIN executions e ON e.session_id = a.session_id AND e.tool_call_id = a.tool_call_id;
