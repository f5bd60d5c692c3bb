-- Model services: what is to be served, by how many sessions, and the routes that lead to these.
CREATE TABLE endpoints (
    id                      TEXT PRIMARY KEY,
    name                    TEXT NOT NULL CONSTRAINT uq_endpoints_name UNIQUE,
    created_user            TEXT NOT NULL CONSTRAINT fk_endpoints_created_user REFERENCES users (id),
    session_owner           TEXT NOT NULL CONSTRAINT fk_endpoints_session_owner REFERENCES users (id),
    -- Negative: its end was asked for.
    desired_session_count   BIGINT NOT NULL,
    image_id                TEXT NOT NULL CONSTRAINT fk_endpoints_image REFERENCES images (id),
    model                   TEXT CONSTRAINT fk_endpoints_model REFERENCES vfolders (id),
    model_mount_destination TEXT NOT NULL,
    domain_name             TEXT NOT NULL CONSTRAINT fk_endpoints_domain REFERENCES domains (name) ON UPDATE CASCADE,
    project_id              TEXT NOT NULL CONSTRAINT fk_endpoints_project REFERENCES projects (id),
    scaling_group           TEXT NOT NULL CONSTRAINT fk_endpoints_scaling_group REFERENCES scaling_groups (name) ON UPDATE CASCADE,
    tag                     TEXT,
    startup_command         TEXT,
    bootstrap_script        TEXT,
    callback_url            TEXT,
    environ                 TEXT NOT NULL DEFAULT '{}',
    open_to_public          BOOLEAN NOT NULL DEFAULT FALSE,
    resource_slots          TEXT NOT NULL DEFAULT '{}',
    resource_opts           TEXT NOT NULL DEFAULT '{}',
    cluster_mode            TEXT NOT NULL,
    cluster_size            BIGINT NOT NULL DEFAULT 1,
    url                     TEXT CONSTRAINT uq_endpoints_url UNIQUE,
    -- JSON: the model definition's service, as it was read when the endpoint was made.
    definition              TEXT,
    created_at              BIGINT NOT NULL,
    -- Sessions that failed in a row, since when the next may be tried, and why the last one failed.
    failures                BIGINT NOT NULL DEFAULT 0,
    retry_at                BIGINT,
    status_info             TEXT,
    -- SHA-256 of what the coordinator was told last.
    told                    TEXT
);
CREATE INDEX ix_endpoints_owner ON endpoints (session_owner, name);

CREATE TABLE routings (
    id            TEXT PRIMARY KEY,
    endpoint      TEXT NOT NULL CONSTRAINT fk_routings_endpoint REFERENCES endpoints (id) ON DELETE CASCADE,
    session       TEXT NOT NULL CONSTRAINT fk_routings_session REFERENCES sessions (id),
    session_owner TEXT NOT NULL CONSTRAINT fk_routings_session_owner REFERENCES users (id),
    domain_name   TEXT NOT NULL CONSTRAINT fk_routings_domain REFERENCES domains (name) ON UPDATE CASCADE,
    project_id    TEXT NOT NULL CONSTRAINT fk_routings_project REFERENCES projects (id),
    -- 'provisioning', 'healthy', 'unhealthy', 'failed_to_start' or 'terminating'
    status        TEXT NOT NULL,
    traffic_ratio DOUBLE PRECISION NOT NULL DEFAULT 1.0,
    created_at    BIGINT NOT NULL,
    status_changed BIGINT NOT NULL,
    CONSTRAINT uq_routings_endpoint_session UNIQUE (endpoint, session)
);
CREATE INDEX ix_routings_session ON routings (session);
