-- What people said need not be asked again: calls of one requester, of a tool as it was, whose arguments fit a schema.
CREATE TABLE approval_grants (
    grant_id uuid PRIMARY KEY,
    tool_id uuid NOT NULL,
    tool_name text NOT NULL,
    schema_hash text NOT NULL,
    session_id uuid REFERENCES user_sessions,
    requester_id uuid NOT NULL REFERENCES users,
    args_schema text NOT NULL,
    granted_by uuid NOT NULL REFERENCES users,
    approval_id uuid NOT NULL UNIQUE REFERENCES approvals,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    revoked_by uuid REFERENCES users,
    uses integer NOT NULL DEFAULT 0,
    last_used_at timestamptz,
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);
COMMENT ON COLUMN approval_grants.session_id IS 'The thread that it is for; NULL: every thread of the requester''s';
COMMENT ON COLUMN approval_grants.approval_id IS 'The approval with which it was given';
CREATE INDEX approval_grants_live ON approval_grants (requester_id, tool_id) WHERE revoked_at IS NULL;
CREATE INDEX approval_grants_of_session ON approval_grants (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX approval_grants_given ON approval_grants (granted_by, created_at, grant_id);
CREATE INDEX approval_grants_held ON approval_grants (requester_id, created_at, grant_id);
CREATE INDEX approval_grants_newest ON approval_grants (created_at, grant_id);

CREATE VIEW approval_grant_details AS
SELECT g.*, r.username AS requester_username, r.display_name AS requester_display_name,
       r.slack_user_id AS requester_chat_user, b.username AS granter_username, b.display_name AS granter_display_name,
       b.slack_user_id AS granter_chat_user
  FROM approval_grants g
  JOIN users r ON r.user_id = g.requester_id
  JOIN users b ON b.user_id = g.granted_by;

ALTER TABLE tool_approval_config ADD COLUMN remember_max_s integer CHECK (remember_max_s >= 0);
COMMENT ON COLUMN tool_approval_config.remember_max_s IS 'How long an approval may spare later ones; 0: never';
