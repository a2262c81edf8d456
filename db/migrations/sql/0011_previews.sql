-- What a tool says it would do: one preview for each approval and the arguments that it was made for, claimed before it is made.
CREATE TABLE approval_previews (
    approval_id uuid NOT NULL REFERENCES approvals,
    args_digest text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    made_at timestamptz,
    ok boolean,
    text text,
    PRIMARY KEY (approval_id, args_digest),
    CHECK ((made_at IS NULL) = (ok IS NULL) AND (made_at IS NULL) = (text IS NULL))
);
COMMENT ON COLUMN approval_previews.made_at IS 'NULL: under way, or whoever made it stopped; it is not made again';

CREATE OR REPLACE FUNCTION opsagent_approval_extras(_session_id uuid, _tool_call_id text, _tool_id uuid) RETURNS json
    LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'attachments', (
            SELECT json_agg(json_build_object(
                       'attachment_id', attachment_id, 'kind', kind, 'name', name, 'media_type', media_type, 'size', size,
                       'tool_call_id', tool_call_id, 'created_at', created_at) ORDER BY position)
              FROM attachments WHERE session_id = _session_id AND tool_call_id = _tool_call_id),
        'preview', (
            SELECT json_build_object('text', p.text, 'ok', p.ok, 'args_digest', p.args_digest, 'made_at', p.made_at)
              FROM approvals a JOIN approval_previews p USING (approval_id, args_digest)
             WHERE a.session_id = _session_id AND a.tool_call_id = _tool_call_id AND p.made_at IS NOT NULL),
        'unsandboxed', (SELECT annotations ->> 'unsandboxed' FROM tools WHERE tool_id = _tool_id))
$$;
