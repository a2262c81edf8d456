-- MCP servers that admins registered; those of MCP_CONFIG are not here. env and headers are sealed JSON objects.
CREATE TABLE mcp_servers (
    server_id uuid PRIMARY KEY,
    name text NOT NULL,
    transport text NOT NULL CHECK (transport IN ('stdio', 'streamable_http', 'sse')),
    command text,
    args text[] NOT NULL DEFAULT '{}',
    url text,
    env text,
    env_names text[] NOT NULL DEFAULT '{}',
    headers text,
    header_names text[] NOT NULL DEFAULT '{}',
    sandbox json NOT NULL DEFAULT '{}',
    tools json NOT NULL DEFAULT '{}',
    enabled boolean NOT NULL DEFAULT true,
    created_by uuid NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((transport = 'stdio') = (command IS NOT NULL)),
    CHECK ((transport = 'stdio') = (url IS NULL))
);
CREATE UNIQUE INDEX mcp_servers_name ON mcp_servers (lower(name));

-- How each worker finds each server, also those of MCP_CONFIG. Unlogged: a crash forgets it, the next report brings it.
CREATE UNLOGGED TABLE mcp_health (
    worker_id uuid NOT NULL,
    server_id uuid NOT NULL,
    name text NOT NULL,
    transport text NOT NULL,
    is_file boolean NOT NULL,
    connected boolean NOT NULL,
    protocol text,
    tools integer NOT NULL,
    problems text[] NOT NULL,
    connected_at timestamptz,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (worker_id, server_id)
);

-- What was accepted of a server's tool, and what the server says of it now where that is something else: then the tool
-- is in quarantine until an admin accepts it.
CREATE TABLE tool_pins (
    tool_id uuid PRIMARY KEY,
    server text NOT NULL,
    accepted_hash text NOT NULL,
    accepted json NOT NULL,
    accepted_by uuid REFERENCES users,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    pending_hash text,
    pending json,
    changed_at timestamptz,
    CHECK ((pending_hash IS NULL) = (pending IS NULL))
);
COMMENT ON COLUMN tool_pins.accepted_by IS 'NULL: the operator, by writing the server into MCP_CONFIG';
CREATE INDEX tool_pins_of_server ON tool_pins (server);

-- What an admin says of a tool; it outlives the tool's comings and goings.
ALTER TABLE tools
    ADD COLUMN enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN given_name text,
    ADD COLUMN given_description text,
    ADD COLUMN redact text[] NOT NULL DEFAULT '{}';
CREATE UNIQUE INDEX tools_given_name ON tools (given_name) WHERE given_name IS NOT NULL;
CREATE INDEX executions_of_tool ON executions (tool_id, claimed_at DESC);
CREATE INDEX approvals_pending_of_tool ON approvals (tool_id) WHERE status = 'pending';

-- Workers follow what admins do: "servers" and "catalogue" say what to read again, "reload" to load tool files anew.
CREATE FUNCTION opsagent_notify_tools() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('opsagent_tools', TG_ARGV[0]);
    RETURN NULL;
END;
$$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON mcp_servers
    FOR EACH STATEMENT EXECUTE FUNCTION opsagent_notify_tools('servers');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON tool_pins
    FOR EACH ROW EXECUTE FUNCTION opsagent_notify_tools('catalogue');
CREATE TRIGGER tell AFTER UPDATE OF enabled, given_name, given_description, redact ON tools
    FOR EACH STATEMENT EXECUTE FUNCTION opsagent_notify_tools('catalogue');
