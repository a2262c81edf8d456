-- How opsagent logs in at a registered MCP server by OAuth. client_secret and login are sealed; login is a JSON object of
-- what was registered, found and granted, with the address that it counts for.
CREATE TABLE mcp_oauth (
    server_id uuid PRIMARY KEY REFERENCES mcp_servers ON DELETE CASCADE,
    grant_type text NOT NULL CHECK (grant_type IN ('client_credentials', 'authorization_code')),
    client_id text,
    client_secret text,
    scope text,
    issuer text,
    login text,
    found_issuer text,
    obtained_at timestamptz,
    renew_at timestamptz,
    authorized_by uuid REFERENCES users,
    authorized_at timestamptz,
    generation bigint NOT NULL DEFAULT 1,
    version bigint NOT NULL DEFAULT 1,
    renewing_by uuid,
    renewing_until timestamptz,
    CHECK ((renewing_by IS NULL) = (renewing_until IS NULL))
);
COMMENT ON COLUMN mcp_oauth.obtained_at IS 'NULL: login has no token';
COMMENT ON COLUMN mcp_oauth.generation IS 'workers connect anew when it changes';
COMMENT ON COLUMN mcp_oauth.version IS 'changes with every token';
CREATE TRIGGER tell AFTER INSERT OR DELETE OR UPDATE OF generation ON mcp_oauth
    FOR EACH STATEMENT EXECUTE FUNCTION opsagent_notify_tools('servers');

-- Authorizations that an admin has begun in a browser: each state admits one callback. flow is sealed and holds the
-- PKCE verifier.
CREATE TABLE mcp_oauth_starts (
    state_hash bytea PRIMARY KEY,
    server_id uuid NOT NULL REFERENCES mcp_oauth ON DELETE CASCADE,
    started_by uuid NOT NULL REFERENCES users,
    flow text NOT NULL,
    expires_at timestamptz NOT NULL
);
