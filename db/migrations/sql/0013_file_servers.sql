-- Where the servers of the operator's file were last: what was approved of one that has moved counts no more.
CREATE TABLE mcp_file_servers (
    name text PRIMARY KEY,
    address_hash text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN mcp_file_servers.address_hash IS 'SHA-256 of its command line or URL, which may hold secrets';
