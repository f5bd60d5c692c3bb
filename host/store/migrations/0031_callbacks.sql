-- What is to be told to those who want to know of sessions' lives (`sessions.callback_url`), in the order of `id`, and what
-- became of it. Rows are dropped some time after their end.
CREATE TABLE callbacks (
    id         {{identity}},
    session_id TEXT NOT NULL CONSTRAINT fk_callbacks_session REFERENCES sessions (id) ON DELETE CASCADE,
    -- enqueued, scheduled, preparing, started, cancelled, terminating, terminated, success or failure
    event      TEXT NOT NULL,
    -- Host and port of the address: whoever is slow delays only itself.
    receiver   TEXT NOT NULL,
    at         BIGINT NOT NULL,
    -- 'pending', 'delivered' or 'failed'
    status     TEXT NOT NULL DEFAULT 'pending',
    -- Tries whose outcome is known.
    attempts   BIGINT NOT NULL DEFAULT 0,
    -- The next try isn't made before.
    due_at     BIGINT NOT NULL,
    ended_at   BIGINT,
    -- Why the newest try failed.
    fault      TEXT
);
CREATE INDEX ix_callbacks_pending ON callbacks (session_id, id) WHERE status = 'pending';
CREATE INDEX ix_callbacks_session ON callbacks (session_id);
CREATE INDEX ix_callbacks_ended ON callbacks (ended_at) WHERE ended_at IS NOT NULL;
