-- People -------------------------------------------------------------------------------------------------------------
CREATE TABLE users (
    user_id uuid PRIMARY KEY,
    username text NOT NULL,
    email text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('member', 'approver', 'admin')),
    disabled boolean NOT NULL DEFAULT false,
    display_name text,
    slack_team_id text,
    slack_user_id text,
    external boolean NOT NULL DEFAULT false,
    profiled_at timestamptz
);
CREATE UNIQUE INDEX users_username_key ON users (lower(username));
CREATE UNIQUE INDEX users_slack_key ON users (slack_team_id, slack_user_id) WHERE slack_user_id IS NOT NULL;

-- Members of the chat platform's user groups, as last asked; a vote that needs them refreshes what is older than 60 s.
CREATE TABLE usergroups (
    group_id text PRIMARY KEY,
    members text[] NOT NULL,
    fetched_at timestamptz NOT NULL
);

-- Conversations ------------------------------------------------------------------------------------------------------
-- The session row is the lock of its thread: whoever writes mail, a decision or an event takes it first.
CREATE TABLE user_sessions (
    session_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    title text,
    source text NOT NULL,
    door text,
    address jsonb,
    epoch bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    delivered_seq bigint NOT NULL DEFAULT 0,
    forgotten_before bigint NOT NULL DEFAULT 0,
    deleted_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX user_sessions_of_user ON user_sessions (user_id, created_at DESC, session_id DESC) WHERE deleted_at IS NULL;
CREATE INDEX user_sessions_newest ON user_sessions (created_at DESC, session_id DESC) WHERE deleted_at IS NULL;
CREATE INDEX user_sessions_expiring ON user_sessions (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL;

-- A queued turn is the thread's mail: unique on event and on message, so a redelivery counts once.
CREATE TABLE turns (
    turn_id uuid PRIMARY KEY,
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    session_id uuid NOT NULL REFERENCES user_sessions,
    requester_id uuid NOT NULL REFERENCES users,
    kind text NOT NULL DEFAULT 'message' CHECK (kind IN ('message', 'call')),
    status text NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'running', 'awaiting_approval', 'completed', 'failed', 'cancelled')),
    text text NOT NULL,
    event_key text,
    message_key text,
    request_digest text,
    reply text,
    error text,
    input_tokens integer NOT NULL DEFAULT 0,
    output_tokens integer NOT NULL DEFAULT 0,
    cached_tokens integer NOT NULL DEFAULT 0,
    model_calls integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    first_seq bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX turns_event_key ON turns (event_key) WHERE event_key IS NOT NULL;
CREATE UNIQUE INDEX turns_message_key ON turns (message_key) WHERE message_key IS NOT NULL;
CREATE UNIQUE INDEX turns_one_at_a_time ON turns (session_id) WHERE status IN ('running', 'awaiting_approval');
CREATE INDEX turns_of_session ON turns (session_id);
CREATE INDEX turns_open ON turns (session_id, ordinal) WHERE status IN ('queued', 'running', 'awaiting_approval');

CREATE TABLE messages (
    message_id uuid PRIMARY KEY,
    position bigint GENERATED ALWAYS AS IDENTITY,
    session_id uuid NOT NULL REFERENCES user_sessions,
    turn_id uuid,
    role text NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
    content text NOT NULL,
    tool_calls json,
    tool_call_id text,
    tool_name text,
    tokens integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX messages_of_session ON messages (session_id, position);

CREATE TABLE events (
    session_id uuid NOT NULL,
    seq bigint NOT NULL,
    turn_id uuid,
    kind text NOT NULL,
    data json NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (session_id, seq)
);

-- Sessions whose door has not rendered every event yet: short whatever the number of sessions.
CREATE TABLE deliveries (
    session_id uuid PRIMARY KEY,
    door text NOT NULL,
    owner uuid,
    leased_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    retry_at timestamptz
);

-- What a door has posted under which key, so that a post is found again instead of made twice.
CREATE TABLE posts (
    session_id uuid NOT NULL,
    key text NOT NULL,
    ref json,
    digest text,
    begun_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, key)
);

-- Tools and approvals ------------------------------------------------------------------------------------------------
CREATE TABLE tools (
    tool_id uuid PRIMARY KEY,
    name text NOT NULL,
    original_name text NOT NULL,
    description text NOT NULL,
    source text NOT NULL,
    server text,
    input_schema json NOT NULL,
    schema_hash text NOT NULL,
    annotations json NOT NULL,
    read_only boolean NOT NULL,
    idempotent boolean NOT NULL,
    status text NOT NULL DEFAULT 'available' CHECK (status IN ('available', 'unavailable')),
    seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tools_by_name ON tools (name, tool_id);

CREATE TABLE tool_approval_config (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid REFERENCES users,
    tool_id uuid NOT NULL,
    tool_name text NOT NULL,
    auto_execute boolean NOT NULL,
    approval_required boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    by_admin boolean NOT NULL DEFAULT true,
    approvers text[],
    quorum integer CHECK (quorum > 0),
    four_eyes boolean,
    expires_in_s integer CHECK (expires_in_s > 0),
    rules json,
    beneath json,
    CHECK (NOT (auto_execute AND approval_required))
);
CREATE UNIQUE INDEX tool_approval_config_default ON tool_approval_config (tool_id) WHERE user_id IS NULL;
CREATE UNIQUE INDEX tool_approval_config_of_user ON tool_approval_config (user_id, tool_id) WHERE user_id IS NOT NULL;
COMMENT ON COLUMN tool_approval_config.beneath IS
    'The rule an admin set for the user, kept under the one that the user tightened it with';

CREATE TABLE approvals (
    approval_id uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES user_sessions,
    turn_id uuid NOT NULL REFERENCES turns,
    tool_call_id text NOT NULL,
    tool_id uuid NOT NULL,
    tool_name text NOT NULL,
    schema_hash text NOT NULL,
    args text NOT NULL,
    args_digest text NOT NULL,
    args_proposed text NOT NULL,
    requested_by uuid NOT NULL REFERENCES users,
    requested_reason text,
    status text NOT NULL CHECK (status IN ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
    approvers text[],
    quorum integer NOT NULL DEFAULT 1,
    four_eyes boolean NOT NULL DEFAULT false,
    decided_by uuid REFERENCES users,
    decided_at timestamptz,
    reason text,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    handled_at timestamptz,
    UNIQUE (session_id, tool_call_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN approvals.args IS 'Canonical JSON (RFC 8785) of what will run; its SHA-256 is args_digest';
COMMENT ON COLUMN approvals.handled_at IS 'When the turn has taken note of the settled decision';
CREATE INDEX approvals_of_turn ON approvals (turn_id);
CREATE INDEX approvals_by_status ON approvals (status, created_at DESC, approval_id DESC);
CREATE INDEX approvals_by_requester ON approvals (requested_by, status, created_at DESC, approval_id DESC);
CREATE INDEX approvals_naming_people ON approvals (status) WHERE approvers IS NOT NULL;
CREATE INDEX approvals_expiring ON approvals (expires_at) WHERE status = 'pending';
CREATE INDEX approvals_unhandled ON approvals (session_id) WHERE status <> 'pending' AND handled_at IS NULL;

CREATE TABLE votes (
    approval_id uuid NOT NULL REFERENCES approvals,
    voter_id uuid NOT NULL REFERENCES users,
    decision text NOT NULL CHECK (decision IN ('approve', 'reject')),
    reason text,
    args_digest text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (approval_id, voter_id)
);

-- The ledger: one row per tool call that was ever claimed, so a crash never runs a tool twice.
CREATE TABLE executions (
    session_id uuid NOT NULL,
    tool_call_id text NOT NULL,
    turn_id uuid NOT NULL,
    approval_id uuid,
    tool_id uuid NOT NULL,
    tool_name text NOT NULL,
    args_digest text NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'outcome_unknown')),
    result text,
    runs integer NOT NULL DEFAULT 1,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (session_id, tool_call_id)
);

-- An approval with its people, votes and execution: what every reader wants of one, in one statement.
CREATE VIEW approval_details AS
SELECT a.approval_id, a.session_id, a.turn_id, a.tool_call_id, a.tool_id, a.tool_name, a.schema_hash, a.args,
       a.args_digest, a.args_proposed, a.requested_by, a.requested_reason, a.status, a.approvers, a.quorum, a.four_eyes,
       a.decided_by, a.decided_at, a.reason, a.expires_at, a.created_at, a.handled_at,
       e.status AS execution, e.result,
       r.username AS requester_username, r.display_name AS requester_display_name, r.slack_user_id AS requester_chat_user,
       d.username AS decider_username, d.display_name AS decider_display_name, d.slack_user_id AS decider_chat_user,
       (SELECT json_agg(json_build_object(
                   'user_id', v.voter_id, 'username', u.username, 'display_name', u.display_name,
                   'chat_user', u.slack_user_id, 'decision', v.decision, 'reason', v.reason,
                   'args_digest', v.args_digest, 'at', v.at) ORDER BY v.at)
          FROM votes v JOIN users u ON u.user_id = v.voter_id
         WHERE v.approval_id = a.approval_id) AS votes
  FROM approvals a
  JOIN users r ON r.user_id = a.requested_by
  LEFT JOIN users d ON d.user_id = a.decided_by
  LEFT JOIN executions e ON e.session_id = a.session_id AND e.tool_call_id = a.tool_call_id;

-- Functions ----------------------------------------------------------------------------------------------------------
-- Wakes a thread: one job per session, a second wake-up collapses into the first. The caller holds the session's row
-- lock, so a wake-up that collapses is always seen by the job that it collapsed into.
CREATE FUNCTION opsagent_wake(_session_id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM procrastinate_defer_jobs_v1(ARRAY[ROW(
        'turns', 'advance', 0, _session_id::text, _session_id::text,
        jsonb_build_object('session_id', _session_id), NULL::timestamptz
    )]::procrastinate_job_to_defer_v1[]);
EXCEPTION WHEN unique_violation THEN
    NULL;
END;
$$;

-- Raises unless the caller still owns the thread, and holds others off until the end of its transaction.
CREATE FUNCTION opsagent_fence(_session_id uuid, _epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM user_sessions WHERE session_id = _session_id AND epoch = _epoch FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % of session % is over', _epoch, _session_id USING ERRCODE = 'OP001';
    END IF;
END;
$$;

-- Appends one fact and tells whoever listens; with an epoch it refuses a worker whose lease is over.
CREATE FUNCTION opsagent_append_event(_session_id uuid, _epoch bigint, _turn_id uuid, _kind text, _data json)
    RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    _seq bigint;
    _door text;
BEGIN
    UPDATE user_sessions SET last_seq = last_seq + 1
     WHERE session_id = _session_id AND (_epoch IS NULL OR epoch = _epoch)
    RETURNING last_seq, door INTO _seq, _door;
    IF _seq IS NULL THEN
        RAISE EXCEPTION 'epoch % of session % is over', _epoch, _session_id USING ERRCODE = 'OP001';
    END IF;
    INSERT INTO events (session_id, seq, turn_id, kind, data) VALUES (_session_id, _seq, _turn_id, _kind, _data);
    IF _door IS NOT NULL THEN
        INSERT INTO deliveries (session_id, door) VALUES (_session_id, _door) ON CONFLICT DO NOTHING;
    END IF;
    PERFORM pg_notify('opsagent_events', _session_id::text || ' ' || _seq || ' ' || coalesce(_door, ''));
    RETURN _seq;
END;
$$;

INSERT INTO users (user_id, username, role, display_name)
VALUES ('00000000-0000-4000-8000-000000000001', 'api-key', 'admin', 'API key');
