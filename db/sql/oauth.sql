-- name: list
SELECT server_id, grant_type, client_id, client_secret, scope, issuer, login, found_issuer, obtained_at, authorized_by,
       authorized_at, generation
  FROM mcp_oauth;

-- name: read
SELECT server_id, grant_type, client_id, client_secret, scope, issuer, login, found_issuer, obtained_at, authorized_by,
       authorized_at, generation, version, extract(epoch FROM renew_at - now())::float8 AS fresh_s
  FROM mcp_oauth WHERE server_id = $1;

-- name: lock
-- Behind its server's row.
SELECT server_id, client_secret, login, generation FROM mcp_oauth WHERE server_id = $1 FOR UPDATE;

-- name: save
-- Other settings: what was granted under the old ones is void.
INSERT INTO mcp_oauth (server_id, grant_type, client_id, client_secret, scope, issuer)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (server_id) DO UPDATE SET grant_type = EXCLUDED.grant_type, client_id = EXCLUDED.client_id,
       client_secret = EXCLUDED.client_secret, scope = EXCLUDED.scope, issuer = EXCLUDED.issuer, login = NULL,
       found_issuer = NULL, obtained_at = NULL, renew_at = NULL, authorized_by = NULL, authorized_at = NULL,
       generation = mcp_oauth.generation + 1, version = mcp_oauth.version + 1, renewing_by = NULL,
       renewing_until = NULL;

-- name: delete
DELETE FROM mcp_oauth WHERE server_id = $1;

-- name: claim_renewal
-- One replica at a time asks for a token: a refresh token may be good for one use only. Who saw another version reads
-- again; a lease that ran out belonged to a replica that died.
UPDATE mcp_oauth SET renewing_by = $2, renewing_until = now() + make_interval(secs => $3)
 WHERE server_id = $1 AND generation = $4 AND version = $5 AND (renewing_until IS NULL OR renewing_until < now())
RETURNING version;

-- name: renewed
UPDATE mcp_oauth
   SET login = $3, found_issuer = $4, obtained_at = now(), renew_at = now() + make_interval(secs => $5),
       version = version + 1, renewing_by = NULL, renewing_until = NULL
 WHERE server_id = $1 AND renewing_by = $2
RETURNING version;

-- name: lapsed
-- The authorization is over: a person has to give it anew, and every worker is told.
UPDATE mcp_oauth
   SET login = $3, obtained_at = NULL, renew_at = NULL, generation = generation + 1, version = version + 1,
       renewing_by = NULL, renewing_until = NULL
 WHERE server_id = $1 AND renewing_by = $2;

-- name: release
UPDATE mcp_oauth SET renewing_by = NULL, renewing_until = NULL WHERE server_id = $1 AND renewing_by = $2;

-- name: authorize
UPDATE mcp_oauth
   SET login = $2, found_issuer = $3, obtained_at = now(), renew_at = now() + make_interval(secs => $4),
       authorized_by = $5, authorized_at = now(), generation = generation + 1, version = version + 1,
       renewing_by = NULL, renewing_until = NULL
 WHERE server_id = $1;

-- name: reseal
UPDATE mcp_oauth SET client_secret = $2, login = $3 WHERE server_id = $1;

-- name: start
INSERT INTO mcp_oauth_starts (state_hash, server_id, started_by, flow, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
RETURNING expires_at;

-- name: forget_starts
-- An admin's earlier start at the same server, and those that are long over.
DELETE FROM mcp_oauth_starts
 WHERE (server_id = $1 AND started_by = $2) OR expires_at < now() - interval '1 hour';

-- name: take_start
-- A state admits once: of callbacks that come at the same time, one gets the row.
DELETE FROM mcp_oauth_starts WHERE state_hash = $1
RETURNING state_hash, server_id, started_by, flow, expires_at <= now() AS expired;

-- name: starts
SELECT state_hash, flow FROM mcp_oauth_starts FOR UPDATE;

-- name: reseal_start
UPDATE mcp_oauth_starts SET flow = $2 WHERE state_hash = $1;
