-- Dotfiles are part of a session from the moment it is enqueued: later changes don't reach it.
CREATE TABLE session_dotfiles (
    session_id TEXT PRIMARY KEY CONSTRAINT fk_session_dotfiles_session REFERENCES sessions (id) ON DELETE CASCADE,
    -- JSON: [{path, perm, data}], those that win last.
    dotfiles   TEXT NOT NULL
);

CREATE TABLE templates (
    id          TEXT PRIMARY KEY,
    -- 'task' or 'cluster'
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    is_active   BOOLEAN NOT NULL DEFAULT TRUE,
    created_at  BIGINT NOT NULL,
    domain_name TEXT NOT NULL CONSTRAINT fk_templates_domain REFERENCES domains (name) ON UPDATE CASCADE ON DELETE CASCADE,
    project_id  TEXT CONSTRAINT fk_templates_project REFERENCES projects (id) ON DELETE CASCADE,
    user_id     TEXT NOT NULL CONSTRAINT fk_templates_user REFERENCES users (id) ON DELETE CASCADE,
    -- JSON: the document in its normal form.
    document    TEXT NOT NULL
);
CREATE INDEX ix_templates_user ON templates (user_id, kind);
CREATE INDEX ix_templates_project ON templates (project_id, kind);

-- What clients reported, and what went wrong in the host.
CREATE TABLE error_logs (
    id             TEXT PRIMARY KEY,
    created_at     BIGINT NOT NULL,
    -- 'critical', 'error' or 'warning'
    severity       TEXT NOT NULL,
    source         TEXT NOT NULL,
    user_id        TEXT CONSTRAINT fk_error_logs_user REFERENCES users (id) ON DELETE CASCADE,
    is_read        BOOLEAN NOT NULL DEFAULT FALSE,
    is_cleared     BOOLEAN NOT NULL DEFAULT FALSE,
    message        TEXT NOT NULL,
    context_lang   TEXT NOT NULL,
    -- JSON
    context_env    TEXT NOT NULL,
    request_url    TEXT,
    request_status BIGINT,
    traceback      TEXT
);
CREATE INDEX ix_error_logs_created ON error_logs (created_at, id);
CREATE INDEX ix_error_logs_user ON error_logs (user_id, created_at);
