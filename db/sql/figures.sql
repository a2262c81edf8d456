-- name: read
-- What waits, over all processes.
SELECT (SELECT count(*) FROM turns WHERE status = 'queued') AS queued,
       (SELECT count(*) FROM turns WHERE status = 'running') AS running,
       (SELECT count(*) FROM turns WHERE status = 'awaiting_approval') AS awaiting_approval,
       (SELECT count(*) FROM approvals WHERE status = 'pending') AS approvals,
       (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float FROM approvals
         WHERE status = 'pending') AS oldest_approval_s,
       (SELECT count(*) FROM deliveries) AS deliveries,
       (SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo') AS jobs,
       (SELECT count(*) FROM tool_pins WHERE pending_hash IS NOT NULL) AS quarantined;

-- name: servers
-- How many MCP servers every fresh report finds connected, and how many not.
SELECT count(*) FILTER (WHERE is_up) AS up, count(*) FILTER (WHERE NOT is_up) AS down
  FROM (SELECT bool_and(connected) AS is_up FROM mcp_health
         WHERE seen_at > now() - make_interval(secs => $1) GROUP BY server_id) s;
