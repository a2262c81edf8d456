-- What people are shown of a call's result beside its text. Kept for some days, and as long as the transcript.
CREATE TABLE attachments (
    attachment_id uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES user_sessions,
    turn_id uuid NOT NULL,
    tool_call_id text NOT NULL,
    position integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('file', 'table', 'text')),
    name text NOT NULL,
    media_type text NOT NULL,
    size integer NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (session_id, tool_call_id, position)
);
ALTER TABLE attachments ALTER COLUMN content SET STORAGE EXTERNAL;
CREATE INDEX attachments_of_turn ON attachments (turn_id);
CREATE INDEX attachments_oldest ON attachments (created_at);

-- What a reader of an approval wants beside its row: what its call gave people, and what holds its tool.
CREATE FUNCTION opsagent_approval_extras(_session_id uuid, _tool_call_id text, _tool_id uuid) RETURNS json
    LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'attachments', (
            SELECT json_agg(json_build_object(
                       'attachment_id', attachment_id, 'kind', kind, 'name', name, 'media_type', media_type, 'size', size,
                       'tool_call_id', tool_call_id, 'created_at', created_at) ORDER BY position)
              FROM attachments WHERE session_id = _session_id AND tool_call_id = _tool_call_id),
        'unsandboxed', (SELECT annotations ->> 'unsandboxed' FROM tools WHERE tool_id = _tool_id))
$$;

-- An admin may say that a changed tool stays as it is: in quarantine.
ALTER TABLE tool_pins ADD COLUMN kept_by uuid REFERENCES users, ADD COLUMN kept_at timestamptz;

CREATE INDEX users_admins ON users (user_id) WHERE role = 'admin';

-- One card for each change and admin: claimed before it is posted, and redrawn while `state` is not what it shows.
CREATE TABLE change_cards (
    tool_id uuid NOT NULL,
    schema_hash text NOT NULL,
    user_id uuid NOT NULL REFERENCES users,
    server text NOT NULL,
    accepted json NOT NULL,
    pending json NOT NULL,
    owner uuid,
    leased_until timestamptz,
    retry_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    ref json,
    state text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tool_id, schema_hash, user_id)
);
CREATE INDEX change_cards_of_user ON change_cards (user_id);
COMMENT ON COLUMN change_cards.state IS 'How the change stood when the card was drawn; NULL: not posted yet';
