-- Accounts -----------------------------------------------------------------------------------------------------------
ALTER TABLE users
    ADD COLUMN password_hash text,
    ADD COLUMN token_version integer NOT NULL DEFAULT 0,
    ADD COLUMN merged_into uuid REFERENCES users;
CREATE INDEX users_newest ON users (created_at DESC, user_id DESC);
COMMENT ON COLUMN users.token_version IS 'Part of every access token: raising it ends them all';
COMMENT ON COLUMN users.merged_into IS 'The account that took over this chat identity; the row stays for what refers to it';

-- A cached identity must go at once when its row changes.
CREATE FUNCTION opsagent_notify_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('opsagent_users', NEW.user_id::text);
    RETURN NULL;
END;
$$;
CREATE TRIGGER tell AFTER UPDATE OF role, disabled, external, token_version, slack_user_id, merged_into, username ON users
    FOR EACH ROW EXECUTE FUNCTION opsagent_notify_user();

-- What programs log in with: shown once, kept as a hash, acting as a user of its own.
CREATE TABLE service_tokens (
    token_id uuid PRIMARY KEY,
    name text NOT NULL,
    token_hash bytea NOT NULL UNIQUE,
    user_id uuid NOT NULL REFERENCES users,
    scopes text[] NOT NULL,
    created_by uuid NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE UNIQUE INDEX service_tokens_name ON service_tokens (lower(name)) WHERE revoked_at IS NULL;
CREATE INDEX service_tokens_newest ON service_tokens (created_at DESC, token_id DESC);

-- One-time codes that the bot sends in a DM, to link an account with a chat identity.
CREATE TABLE link_codes (
    user_id uuid PRIMARY KEY REFERENCES users,
    code_hash bytea NOT NULL,
    slack_team_id text NOT NULL,
    slack_user_id text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL
);

-- Counters of rate limits, shared by all replicas. Unlogged: a crash forgets them, and nothing else.
CREATE UNLOGGED TABLE rate_limits (
    key text PRIMARY KEY,
    count integer NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX rate_limits_expiring ON rate_limits (expires_at);

-- Audit --------------------------------------------------------------------------------------------------------------
-- Each entry's hash covers the one before it; the head says where the chain ends, so a cut-off tail shows too.
CREATE TABLE audit_log (
    id bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    actor_id uuid,
    subject text NOT NULL,
    data text NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_log_of_actor ON audit_log (actor_id, id);
CREATE INDEX audit_log_of_kind ON audit_log (kind, id);
CREATE INDEX audit_log_of_subject ON audit_log (subject, id);

CREATE TABLE audit_head (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    id bigint NOT NULL,
    hash bytea NOT NULL
);
INSERT INTO audit_head (id, hash) VALUES (0, '\x00');

CREATE FUNCTION opsagent_audit_hash(_before bytea, _id bigint, _at timestamptz, _kind text, _actor uuid, _subject text,
    _data text) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(_before || convert_to(concat_ws(E'\x1f', _id, extract(epoch FROM _at), _kind,
                                                  coalesce(_actor::text, '-'), _subject, _data), 'UTF8'))
$$;

-- Appends one entry. Called last in its transaction: the head's row is the one lock that all writers share.
CREATE FUNCTION opsagent_audit(_kind text, _actor uuid, _subject text, _data text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    _head audit_head;
    _at timestamptz;
BEGIN
    SELECT * INTO _head FROM audit_head FOR UPDATE;
    _at := clock_timestamp();
    INSERT INTO audit_log (id, at, kind, actor_id, subject, data, hash)
    VALUES (_head.id + 1, _at, _kind, _actor, _subject, _data,
            opsagent_audit_hash(_head.hash, _head.id + 1, _at, _kind, _actor, _subject, _data));
    UPDATE audit_head SET id = _head.id + 1, hash = (SELECT hash FROM audit_log WHERE id = _head.id + 1);
    RETURN _head.id + 1;
END;
$$;

CREATE FUNCTION opsagent_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END;
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION opsagent_append_only();
