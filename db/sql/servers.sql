-- name: insert
INSERT INTO mcp_servers (server_id, name, transport, command, args, url, env, env_names, headers, header_names, sandbox,
       tools, enabled, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT DO NOTHING
RETURNING server_id;

-- name: list
SELECT server_id, name, transport, command, args, url, env, env_names, headers, header_names, sandbox, tools, enabled,
       created_by, created_at, updated_at
  FROM mcp_servers ORDER BY lower(name);

-- name: read
SELECT server_id, name, transport, command, args, url, env, env_names, headers, header_names, sandbox, tools, enabled,
       created_by, created_at, updated_at
  FROM mcp_servers WHERE server_id = $1;

-- name: lock
SELECT server_id, name, transport, command, args, url, env, env_names, headers, header_names, sandbox, tools, enabled,
       created_by, created_at, updated_at
  FROM mcp_servers WHERE server_id = $1 FOR UPDATE;

-- name: save
UPDATE mcp_servers
   SET command = $2, args = $3, url = $4, env = $5, env_names = $6, headers = $7, header_names = $8, sandbox = $9,
       tools = $10, enabled = $11, updated_at = now()
 WHERE server_id = $1;

-- name: reseal
UPDATE mcp_servers SET env = $2, headers = $3 WHERE server_id = $1;

-- name: delete
DELETE FROM mcp_servers WHERE server_id = $1;

-- name: forget_policy
-- A server that is registered under the same name later must not inherit what people allowed this one.
DELETE FROM tool_approval_config WHERE tool_id IN (SELECT tool_id FROM tools WHERE source = 'mcp' AND server = $1);

-- name: forget_tools
UPDATE tools SET status = 'unavailable', enabled = true, given_name = NULL, given_description = NULL, redact = '{}'
 WHERE source = 'mcp' AND server = $1;

-- name: report
INSERT INTO mcp_health (worker_id, server_id, name, transport, is_file, connected, protocol, tools, problems,
       connected_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $6 THEN now() END)
ON CONFLICT (worker_id, server_id) DO UPDATE SET name = EXCLUDED.name, transport = EXCLUDED.transport,
       is_file = EXCLUDED.is_file, connected = EXCLUDED.connected, protocol = EXCLUDED.protocol, tools = EXCLUDED.tools,
       problems = EXCLUDED.problems, connected_at = coalesce(EXCLUDED.connected_at, mcp_health.connected_at),
       seen_at = now();

-- name: forget_reports
-- What this worker has no more, and what workers that are gone said.
DELETE FROM mcp_health
 WHERE (worker_id = $1 AND NOT server_id = ANY($2::uuid[])) OR seen_at < now() - make_interval(secs => $3);

-- name: health
SELECT worker_id, server_id, name, transport, is_file, connected, protocol, tools, problems, connected_at, seen_at
  FROM mcp_health WHERE seen_at >= now() - make_interval(secs => $1) ORDER BY name, worker_id;

-- name: owners
SELECT name, created_by FROM mcp_servers;

-- name: file_server_moved
-- Note where a server of the operator's file is; true where it was somewhere else before, or a registered one had its
-- name, nothing where it stays.
INSERT INTO mcp_file_servers (name, address_hash) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET address_hash = EXCLUDED.address_hash, changed_at = now()
 WHERE mcp_file_servers.address_hash <> EXCLUDED.address_hash
RETURNING xmax <> 0 OR EXISTS (SELECT 1 FROM mcp_servers WHERE lower(mcp_servers.name) = lower($1));

-- name: forget_file_server
DELETE FROM mcp_file_servers WHERE name = $1;
