-- Leaves the newest checkpoint of a finished turn; the transcript is what the agent remembers.
CREATE FUNCTION opsagent_prune_checkpoints(_thread_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM checkpoints c USING (
           SELECT max(checkpoint_id) AS newest FROM checkpoints
            WHERE thread_id = _thread_id AND checkpoint_ns = '') k
     WHERE c.thread_id = _thread_id AND (c.checkpoint_id <> k.newest OR c.checkpoint_ns <> '');
    DELETE FROM checkpoint_blobs b
     WHERE b.thread_id = _thread_id AND NOT EXISTS (
           SELECT 1 FROM checkpoints c
            WHERE c.thread_id = _thread_id AND c.checkpoint_ns = b.checkpoint_ns
              AND c.checkpoint -> 'channel_versions' ->> b.channel = b.version);
    DELETE FROM checkpoint_writes WHERE thread_id = _thread_id;
END;
$$;

-- As in the first migration, and it tells the event's kind: who waits for one kind need not look at each of them.
CREATE OR REPLACE FUNCTION opsagent_append_event(_session_id uuid, _epoch bigint, _turn_id uuid, _kind text, _data json)
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
    PERFORM pg_notify('opsagent_events', _session_id || ' ' || _seq || ':' || _kind || ' ' || coalesce(_door, ''));
    RETURN _seq;
END;
$$;
