-- Work that goes on after its request was answered, and how far it is.
CREATE TABLE background_tasks (
    id         TEXT PRIMARY KEY,
    -- What it does, e.g. `rescan-images`.
    kind       TEXT NOT NULL,
    -- The user that asked for it; NULL: the host itself.
    owner      TEXT,
    -- The run of the host that works on it. It says now and then that it still does.
    host       TEXT NOT NULL,
    alive_at   BIGINT NOT NULL,
    -- 'started', 'done', 'failed' or 'cancelled'
    status     TEXT NOT NULL,
    current    BIGINT NOT NULL,
    total      BIGINT NOT NULL,
    -- The newest message; at the end the outcome.
    message    TEXT,
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX ix_background_tasks_status ON background_tasks (status, updated_at);

-- What was told on the way, the newest of each task; `id` orders them.
CREATE TABLE background_task_updates (
    id      {{identity}},
    task_id TEXT NOT NULL CONSTRAINT fk_background_task_updates_task REFERENCES background_tasks (id) ON DELETE CASCADE,
    current BIGINT NOT NULL,
    total   BIGINT NOT NULL,
    message TEXT
);
CREATE INDEX ix_background_task_updates_task ON background_task_updates (task_id, id);
