-- What a running tool asks of its turn's requester. What was answered stands here only until the call has taken it.
CREATE TABLE questions (
    question_id uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES user_sessions,
    turn_id uuid NOT NULL REFERENCES turns,
    tool_call_id text NOT NULL,
    tool_name text NOT NULL,
    server text,
    message text NOT NULL,
    schema json NOT NULL,
    asked_of uuid NOT NULL REFERENCES users,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'answered', 'declined', 'expired', 'cancelled')),
    content json,
    settled_by uuid REFERENCES users,
    settled_at timestamptz,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (content IS NULL OR status = 'answered')
);
CREATE INDEX questions_of_session ON questions (session_id);
CREATE INDEX questions_by_status ON questions (status, created_at DESC, question_id DESC);
CREATE INDEX questions_of_person ON questions (asked_of, status, created_at DESC, question_id DESC);

-- A question with its people: what every reader wants of one. Never what was answered.
CREATE VIEW question_details AS
SELECT q.question_id, q.session_id, q.turn_id, q.tool_call_id, q.tool_name, q.server, q.message, q.schema, q.asked_of,
       q.status, q.settled_by, q.settled_at, q.expires_at, q.created_at,
       a.username AS asked_username, a.display_name AS asked_display_name, a.slack_user_id AS asked_chat_user,
       s.username AS settler_username, s.display_name AS settler_display_name, s.slack_user_id AS settler_chat_user
  FROM questions q
  JOIN users a ON a.user_id = q.asked_of
  LEFT JOIN users s ON s.user_id = q.settled_by;
