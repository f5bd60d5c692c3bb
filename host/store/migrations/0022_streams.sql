-- Open connections to services of sessions, as hosts last saw traffic on them.
CREATE TABLE app_connections (
    id         TEXT PRIMARY KEY,
    session_id TEXT NOT NULL CONSTRAINT fk_app_connections_session REFERENCES sessions (id) ON DELETE CASCADE,
    kernel_id  TEXT NOT NULL,
    app        TEXT NOT NULL,
    seen_at    BIGINT NOT NULL
);
CREATE INDEX ix_app_connections_session ON app_connections (session_id);
CREATE INDEX ix_app_connections_seen ON app_connections (seen_at);
