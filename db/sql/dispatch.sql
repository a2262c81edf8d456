-- name: wake
-- One job for the thread; a second wake-up collapses into a waiting one. See opsagent_wake in the first migration.
SELECT opsagent_wake($1);

-- name: lock_session
-- The thread's lock: whoever writes mail or a decision holds it until the wake-up is committed with it.
SELECT session_id FROM user_sessions WHERE session_id = $1 FOR NO KEY UPDATE;

-- name: try_lock_session
-- The same for a sweep, which has other threads to see to: a thread that somebody holds is left to the next sweep.
SELECT session_id FROM user_sessions WHERE session_id = $1 FOR NO KEY UPDATE SKIP LOCKED;

-- name: stalled
-- Jobs whose worker's heart has not beaten for $1 seconds, or whose worker is gone.
SELECT j.id, CASE WHEN j.task_name = 'advance' THEN (j.args ->> 'session_id')::uuid END AS session_id
  FROM procrastinate_jobs j LEFT JOIN procrastinate_workers w ON w.id = j.worker_id
 WHERE j.status = 'doing' AND (w.id IS NULL OR w.last_heartbeat < now() - make_interval(secs => $1));

-- name: delete_stalled
-- The stalled job, looked at again under the thread's lock.
DELETE FROM procrastinate_jobs j
 WHERE j.id = $1 AND j.status = 'doing' AND NOT EXISTS (
       SELECT 1 FROM procrastinate_workers w
        WHERE w.id = j.worker_id AND w.last_heartbeat >= now() - make_interval(secs => $2))
RETURNING j.id;

-- name: idle_with_mail
-- Threads with something to do and no job: a turn to start or to go on with, or a waiting one that was decided.
SELECT DISTINCT t.session_id
  FROM turns t
 WHERE t.status IN ('queued', 'running', 'awaiting_approval')
   AND (t.retry_at IS NULL OR t.retry_at <= now())
   AND CASE t.status
       WHEN 'queued' THEN NOT EXISTS (
            SELECT 1 FROM turns w WHERE w.session_id = t.session_id AND w.status IN ('running', 'awaiting_approval'))
       WHEN 'awaiting_approval' THEN t.cancel_requested OR EXISTS (
            SELECT 1 FROM approvals a
             WHERE a.session_id = t.session_id AND a.turn_id = t.turn_id
               AND a.status <> 'pending' AND a.handled_at IS NULL)
       ELSE true END
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.lock = t.session_id::text AND j.status = 'doing')
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.queueing_lock = t.session_id::text AND j.status = 'todo');
