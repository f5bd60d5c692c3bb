-- One text for SQLite and PostgreSQL. Ids and JSON documents are TEXT, instants BIGINT microseconds
-- since the Unix epoch, slot amounts on hot tables BIGINT in contract units (bytes, or thousandths).

-- Facts about this installation (`cluster-id`, `manager-status`, …).
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Bumped by every transaction that changes an area which hosts cache: identity, config, policies, bindings.
CREATE TABLE revisions (
    area     TEXT PRIMARY KEY,
    revision BIGINT NOT NULL
);
INSERT INTO revisions (area, revision) VALUES ('identity', 1), ('config', 1), ('bindings', 1), ('sessions', 1);

-- The shared configuration tree: one row a key, components percent-quoted and joined by '/'.
CREATE TABLE config (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- ------------------------------------------------------------ identity --
CREATE TABLE domains (
    name                      TEXT PRIMARY KEY,
    description               TEXT,
    is_active                 BOOLEAN NOT NULL DEFAULT TRUE,
    created_at                BIGINT NOT NULL,
    modified_at               BIGINT NOT NULL,
    total_resource_slots      TEXT NOT NULL DEFAULT '{}',
    allowed_vfolder_hosts     TEXT NOT NULL DEFAULT '{}',
    allowed_docker_registries TEXT NOT NULL DEFAULT '[]',
    integration_id            TEXT,
    dotfiles                  BYTEA
);

-- The API calls these groups.
CREATE TABLE projects (
    id                    TEXT PRIMARY KEY,
    name                  TEXT NOT NULL,
    domain_name           TEXT NOT NULL CONSTRAINT fk_projects_domain REFERENCES domains (name) ON UPDATE CASCADE ON DELETE CASCADE,
    description           TEXT,
    is_active             BOOLEAN NOT NULL DEFAULT TRUE,
    created_at            BIGINT NOT NULL,
    modified_at           BIGINT NOT NULL,
    total_resource_slots  TEXT NOT NULL DEFAULT '{}',
    allowed_vfolder_hosts TEXT NOT NULL DEFAULT '{}',
    integration_id        TEXT,
    dotfiles              BYTEA,
    CONSTRAINT uq_projects_name_domain UNIQUE (name, domain_name)
);

CREATE TABLE keypair_resource_policies (
    name                         TEXT PRIMARY KEY,
    created_at                   BIGINT NOT NULL,
    default_for_unspecified      TEXT NOT NULL DEFAULT 'LIMITED',
    total_resource_slots         TEXT NOT NULL DEFAULT '{}',
    max_session_lifetime         BIGINT NOT NULL DEFAULT 0,
    max_concurrent_sessions      BIGINT NOT NULL,
    max_concurrent_sftp_sessions BIGINT NOT NULL DEFAULT 1,
    max_containers_per_session   BIGINT NOT NULL,
    max_vfolder_count            BIGINT NOT NULL,
    max_vfolder_size             BIGINT NOT NULL,
    idle_timeout                 BIGINT NOT NULL,
    allowed_vfolder_hosts        TEXT NOT NULL DEFAULT '{}'
);

CREATE TABLE users (
    id                   TEXT PRIMARY KEY,
    username             TEXT CONSTRAINT uq_users_username UNIQUE,
    email                TEXT NOT NULL CONSTRAINT uq_users_email UNIQUE,
    password             TEXT,
    need_password_change BOOLEAN NOT NULL DEFAULT FALSE,
    password_changed_at  BIGINT,
    full_name            TEXT,
    description          TEXT,
    status               TEXT NOT NULL,
    status_info          TEXT,
    created_at           BIGINT NOT NULL,
    modified_at          BIGINT NOT NULL,
    domain_name          TEXT NOT NULL CONSTRAINT fk_users_domain REFERENCES domains (name),
    role                 TEXT NOT NULL,
    integration_id       TEXT,
    -- JSON list of CIDR texts; NULL = anywhere.
    allowed_client_ip    TEXT,
    totp_key             TEXT,
    totp_activated       BOOLEAN NOT NULL DEFAULT FALSE,
    totp_activated_at    BIGINT
);

CREATE TABLE project_members (
    project_id TEXT NOT NULL CONSTRAINT fk_project_members_project REFERENCES projects (id) ON DELETE CASCADE,
    user_id    TEXT NOT NULL CONSTRAINT fk_project_members_user REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX ix_project_members_user ON project_members (user_id);

CREATE TABLE keypairs (
    access_key       TEXT PRIMARY KEY,
    secret_key       TEXT NOT NULL,
    user_id          TEXT NOT NULL CONSTRAINT fk_keypairs_user REFERENCES users (id),
    user_email       TEXT NOT NULL,
    is_active        BOOLEAN NOT NULL,
    is_admin         BOOLEAN NOT NULL,
    resource_policy  TEXT NOT NULL CONSTRAINT fk_keypairs_policy REFERENCES keypair_resource_policies (name),
    created_at       BIGINT NOT NULL,
    last_used        BIGINT,
    rate_limit       BIGINT NOT NULL,
    num_queries      BIGINT NOT NULL DEFAULT 0,
    ssh_public_key   TEXT,
    ssh_private_key  TEXT,
    dotfiles         BYTEA,
    bootstrap_script TEXT NOT NULL DEFAULT ''
);
CREATE INDEX ix_keypairs_user ON keypairs (user_id);

-- ----------------------------------------------------------- resources --
CREATE TABLE scaling_groups (
    name              TEXT PRIMARY KEY,
    description       TEXT,
    is_active         BOOLEAN NOT NULL DEFAULT TRUE,
    is_public         BOOLEAN NOT NULL DEFAULT TRUE,
    created_at        BIGINT NOT NULL,
    wsproxy_addr      TEXT,
    wsproxy_api_token TEXT,
    driver            TEXT NOT NULL,
    driver_opts       TEXT NOT NULL DEFAULT '{}',
    scheduler         TEXT NOT NULL,
    scheduler_opts    TEXT NOT NULL DEFAULT '{}',
    use_host_network  BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE scaling_group_domains (
    scaling_group TEXT NOT NULL CONSTRAINT fk_sgd_scaling_group REFERENCES scaling_groups (name) ON UPDATE CASCADE ON DELETE CASCADE,
    domain_name   TEXT NOT NULL CONSTRAINT fk_sgd_domain REFERENCES domains (name) ON UPDATE CASCADE ON DELETE CASCADE,
    PRIMARY KEY (scaling_group, domain_name)
);
CREATE TABLE scaling_group_projects (
    scaling_group TEXT NOT NULL CONSTRAINT fk_sgp_scaling_group REFERENCES scaling_groups (name) ON UPDATE CASCADE ON DELETE CASCADE,
    project_id    TEXT NOT NULL CONSTRAINT fk_sgp_project REFERENCES projects (id) ON DELETE CASCADE,
    PRIMARY KEY (scaling_group, project_id)
);
CREATE TABLE scaling_group_keypairs (
    scaling_group TEXT NOT NULL CONSTRAINT fk_sgk_scaling_group REFERENCES scaling_groups (name) ON UPDATE CASCADE ON DELETE CASCADE,
    access_key    TEXT NOT NULL CONSTRAINT fk_sgk_keypair REFERENCES keypairs (access_key) ON DELETE CASCADE,
    PRIMARY KEY (scaling_group, access_key)
);

CREATE TABLE images (
    id            TEXT PRIMARY KEY,
    -- Canonical: registry/image:tag
    name          TEXT NOT NULL,
    image         TEXT NOT NULL,
    tag           TEXT NOT NULL,
    registry      TEXT NOT NULL,
    architecture  TEXT NOT NULL,
    config_digest TEXT NOT NULL,
    size_bytes    BIGINT NOT NULL,
    is_local      BOOLEAN NOT NULL DEFAULT FALSE,
    type          TEXT NOT NULL DEFAULT 'COMPUTE',
    accelerators  TEXT,
    labels        TEXT NOT NULL DEFAULT '{}',
    resources     TEXT NOT NULL DEFAULT '{}',
    created_at    BIGINT NOT NULL,
    CONSTRAINT uq_images_name_architecture UNIQUE (name, architecture)
);
CREATE TABLE image_aliases (
    alias    TEXT PRIMARY KEY,
    image_id TEXT NOT NULL CONSTRAINT fk_image_aliases_image REFERENCES images (id)
);
CREATE INDEX ix_image_aliases_image ON image_aliases (image_id);

CREATE TABLE resource_presets (
    name           TEXT PRIMARY KEY,
    resource_slots TEXT NOT NULL,
    shared_memory  BIGINT
);

-- -------------------------------------------------------------- agents --
CREATE TABLE agents (
    id              TEXT PRIMARY KEY,
    status          TEXT NOT NULL,
    status_changed  BIGINT,
    region          TEXT NOT NULL DEFAULT 'local',
    scaling_group   TEXT NOT NULL CONSTRAINT fk_agents_scaling_group REFERENCES scaling_groups (name) ON UPDATE CASCADE,
    schedulable     BOOLEAN NOT NULL DEFAULT TRUE,
    addr            TEXT NOT NULL,
    public_host     TEXT,
    architecture    TEXT NOT NULL,
    version         TEXT NOT NULL,
    runtime         TEXT NOT NULL,
    -- JSON list: the `ai.backend.runtime-type`s it has an interpreter for; ["*"] = any.
    runtime_types   TEXT NOT NULL DEFAULT '[]',
    compute_plugins TEXT NOT NULL DEFAULT '{}',
    -- JSON slot map of decimal texts, as reported; what is occupied stands in `agent_slots`.
    available_slots TEXT NOT NULL DEFAULT '{}',
    auto_terminate_abusing_kernel BOOLEAN NOT NULL DEFAULT FALSE,
    first_contact   BIGINT NOT NULL,
    last_seen       BIGINT NOT NULL,
    lost_at         BIGINT,
    -- SHA-256 of the credential that the agent presents, and the secret that the host presents to it.
    credential      TEXT NOT NULL,
    host_secret     TEXT NOT NULL,
    -- The last report of this agent that was taken in; older ones are repeats.
    boot_id         TEXT NOT NULL DEFAULT '',
    report_seq      BIGINT NOT NULL DEFAULT 0,
    -- Starts are withheld until then after repeated failures.
    cooldown_until  BIGINT,
    cooldown_reason TEXT
);
CREATE INDEX ix_agents_scaling_group ON agents (scaling_group, status);

-- The books that reservations are guarded by: one row an agent and slot.
CREATE TABLE agent_slots (
    agent_id TEXT NOT NULL CONSTRAINT fk_agent_slots_agent REFERENCES agents (id) ON DELETE CASCADE,
    slot     TEXT NOT NULL,
    capacity BIGINT NOT NULL,
    occupied BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (agent_id, slot)
);

CREATE TABLE join_tokens (
    -- SHA-256 of the token.
    hash       TEXT PRIMARY KEY,
    note       TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

-- ------------------------------------------------------------ sessions --
CREATE TABLE sessions (
    id               TEXT PRIMARY KEY,
    creation_id      TEXT NOT NULL,
    name             TEXT NOT NULL,
    session_type     TEXT NOT NULL,
    priority         BIGINT NOT NULL DEFAULT 0,
    expected_ms      BIGINT,
    timeout_ms       BIGINT,
    cluster_mode     TEXT NOT NULL,
    cluster_size     BIGINT NOT NULL,
    -- A session of the system (an image with role SYSTEM): counted apart.
    is_private       BOOLEAN NOT NULL DEFAULT FALSE,
    domain_name      TEXT NOT NULL CONSTRAINT fk_sessions_domain REFERENCES domains (name),
    project_id       TEXT NOT NULL CONSTRAINT fk_sessions_project REFERENCES projects (id),
    user_id          TEXT NOT NULL CONSTRAINT fk_sessions_user REFERENCES users (id),
    access_key       TEXT NOT NULL CONSTRAINT fk_sessions_keypair REFERENCES keypairs (access_key),
    scaling_group    TEXT NOT NULL CONSTRAINT fk_sessions_scaling_group REFERENCES scaling_groups (name) ON UPDATE CASCADE,
    tag              TEXT,
    status           TEXT NOT NULL,
    status_info      TEXT,
    status_data      TEXT,
    -- JSON object: status name → ISO 8601 instant, the last time wins.
    status_history   TEXT NOT NULL DEFAULT '{}',
    result           TEXT NOT NULL DEFAULT 'UNDEFINED',
    exit_code        BIGINT,
    created_at       BIGINT NOT NULL,
    status_changed   BIGINT NOT NULL,
    terminated_at    BIGINT,
    starts_at        BIGINT,
    startup_command  TEXT,
    bootstrap_script TEXT,
    callback_url     TEXT,
    environ          TEXT NOT NULL DEFAULT '{}',
    vfolder_mounts   TEXT NOT NULL DEFAULT '[]',
    use_host_network BOOLEAN NOT NULL DEFAULT FALSE,
    requested_slots  TEXT NOT NULL DEFAULT '{}',
    num_queries      BIGINT NOT NULL DEFAULT 0,
    -- When a start or a termination is to be tried again, and how often it was.
    attempts         BIGINT NOT NULL DEFAULT 0,
    retry_at         BIGINT
);
-- A live session's name is taken within its access key.
CREATE UNIQUE INDEX uq_sessions_live_name ON sessions (access_key, name) WHERE status NOT IN ('TERMINATED', 'CANCELLED');
CREATE INDEX ix_sessions_pending ON sessions (scaling_group, created_at, id) WHERE status = 'PENDING';
CREATE INDEX ix_sessions_open ON sessions (status, scaling_group) WHERE status NOT IN ('TERMINATED', 'CANCELLED');
CREATE INDEX ix_sessions_due ON sessions (status, retry_at) WHERE status NOT IN ('TERMINATED', 'CANCELLED');
CREATE INDEX ix_sessions_owner ON sessions (access_key, created_at);
CREATE INDEX ix_sessions_created ON sessions (created_at);

CREATE TABLE kernels (
    id                TEXT PRIMARY KEY,
    session_id        TEXT NOT NULL CONSTRAINT fk_kernels_session REFERENCES sessions (id) ON DELETE CASCADE,
    cluster_role      TEXT NOT NULL,
    cluster_idx       BIGINT NOT NULL,
    local_rank        BIGINT NOT NULL,
    cluster_hostname  TEXT NOT NULL,
    -- COMPUTE, INFERENCE or SYSTEM, by the image's label.
    kernel_role       TEXT NOT NULL DEFAULT 'COMPUTE',
    image             TEXT NOT NULL,
    architecture      TEXT NOT NULL,
    registry          TEXT NOT NULL,
    image_labels      TEXT NOT NULL DEFAULT '{}',
    tag               TEXT,
    status            TEXT NOT NULL,
    status_info       TEXT,
    status_data       TEXT,
    status_changed    BIGINT NOT NULL,
    created_at        BIGINT NOT NULL,
    started_at        BIGINT,
    terminated_at     BIGINT,
    -- Pinned by an administrator; `agent_id` is where it was placed.
    designated_agent  TEXT,
    agent_id          TEXT CONSTRAINT fk_kernels_agent REFERENCES agents (id),
    agent_addr        TEXT,
    container_id      TEXT,
    -- JSON slot maps of decimal texts.
    requested_slots   TEXT NOT NULL,
    occupied_slots    TEXT NOT NULL,
    -- The same as `occupied_slots` in contract units (JSON object of integers): what the books count.
    held              TEXT NOT NULL DEFAULT '{}',
    resource_opts     TEXT NOT NULL DEFAULT '{}',
    environ           TEXT NOT NULL DEFAULT '[]',
    bootstrap_script  TEXT,
    startup_command   TEXT,
    preopen_ports     TEXT NOT NULL DEFAULT '[]',
    service_ports     TEXT,
    kernel_host       TEXT,
    -- What really runs it, as the agent reports: runtime, interpreter and its version.
    runtime_info      TEXT,
    attached_devices  TEXT NOT NULL DEFAULT '{}',
    last_stat         TEXT,
    container_log     TEXT,
    exit_code         BIGINT,
    result            TEXT NOT NULL DEFAULT 'UNDEFINED'
);
CREATE INDEX ix_kernels_session ON kernels (session_id, cluster_idx);
CREATE INDEX ix_kernels_agent ON kernels (agent_id) WHERE status NOT IN ('PENDING', 'TERMINATED', 'CANCELLED');

CREATE TABLE session_dependencies (
    session_id TEXT NOT NULL CONSTRAINT fk_session_dependencies_session REFERENCES sessions (id) ON DELETE CASCADE,
    depends_on TEXT NOT NULL CONSTRAINT fk_session_dependencies_depends_on REFERENCES sessions (id) ON DELETE CASCADE,
    PRIMARY KEY (session_id, depends_on)
);
CREATE INDEX ix_session_dependencies_depends_on ON session_dependencies (depends_on);

-- Every status change of a session or kernel, in the order of their transactions.
CREATE TABLE history (
    id         {{identity}},
    session_id TEXT NOT NULL,
    -- NULL: the session itself.
    kernel_id  TEXT,
    status     TEXT NOT NULL,
    reason     TEXT,
    at         BIGINT NOT NULL
);
CREATE INDEX ix_history_session ON history (session_id, id);

-- What keypairs, projects and domains hold: Σ occupied slots of user-occupying, non-private kernels.
CREATE TABLE occupancy (
    -- 'keypair', 'project' or 'domain'
    scope   TEXT NOT NULL,
    holder  TEXT NOT NULL,
    slot    TEXT NOT NULL,
    amount  BIGINT NOT NULL,
    PRIMARY KEY (scope, holder, slot)
);
-- Concurrent user-occupying sessions of a keypair.
CREATE TABLE concurrency (
    access_key       TEXT PRIMARY KEY,
    sessions         BIGINT NOT NULL DEFAULT 0,
    private_sessions BIGINT NOT NULL DEFAULT 0
);

-- Bounded log of events for streams and callbacks; `id` orders them.
CREATE TABLE events (
    id         {{identity}},
    at         BIGINT NOT NULL,
    name       TEXT NOT NULL,
    session_id TEXT,
    kernel_id  TEXT,
    reason     TEXT NOT NULL DEFAULT '',
    -- JSON: what else the event says.
    detail     TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX ix_events_session ON events (session_id, id);

-- Last access of running sessions: NULL = busy.
CREATE TABLE session_access (
    session_id  TEXT PRIMARY KEY CONSTRAINT fk_session_access_session REFERENCES sessions (id) ON DELETE CASCADE,
    last_access BIGINT
);
-- Newest report of each idle checker.
CREATE TABLE idle_reports (
    session_id   TEXT NOT NULL CONSTRAINT fk_idle_reports_session REFERENCES sessions (id) ON DELETE CASCADE,
    checker      TEXT NOT NULL,
    -- Seconds; -1 = expired.
    remaining    DOUBLE PRECISION,
    extra        TEXT,
    at           BIGINT NOT NULL,
    PRIMARY KEY (session_id, checker)
);

-- ------------------------------------------------------------- plugins --
CREATE TABLE plugin_revisions (
    -- Lower-case hex SHA-256 of the component.
    digest        TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    version       TEXT NOT NULL,
    -- 'scheduler', 'idle-checker' or 'hook'
    kind          TEXT NOT NULL,
    summary       TEXT NOT NULL DEFAULT '',
    -- JSON: what `describe` answered.
    info          TEXT NOT NULL DEFAULT '{}',
    size_bytes    BIGINT NOT NULL,
    builtin       BOOLEAN NOT NULL DEFAULT FALSE,
    -- 'ready', 'suspended' or 'failed'
    status        TEXT NOT NULL,
    status_reason TEXT,
    uploaded_by   TEXT NOT NULL,
    uploaded_at   BIGINT NOT NULL,
    component     BYTEA NOT NULL
);
CREATE INDEX ix_plugin_revisions_name ON plugin_revisions (kind, name, uploaded_at);

CREATE TABLE plugin_bindings (
    id             TEXT PRIMARY KEY,
    kind           TEXT NOT NULL,
    plugin         TEXT NOT NULL,
    -- 'scaling-group', 'domain' or 'everywhere'; `target` is '' for the last.
    target_kind    TEXT NOT NULL,
    target         TEXT NOT NULL DEFAULT '',
    digest         TEXT NOT NULL CONSTRAINT fk_plugin_bindings_revision REFERENCES plugin_revisions (digest),
    config         TEXT NOT NULL DEFAULT '{}',
    position       BIGINT,
    -- 'live' or 'shadow'
    mode           TEXT NOT NULL DEFAULT 'live',
    -- hooks: 'fail-closed' or 'fail-open'
    failure_policy TEXT NOT NULL DEFAULT 'fail-closed',
    bound_by       TEXT NOT NULL,
    bound_at       BIGINT NOT NULL,
    CONSTRAINT uq_plugin_bindings_target UNIQUE (kind, plugin, target_kind, target, mode)
);

-- Who bound what, when: append-only; rollback reads it.
CREATE TABLE plugin_history (
    id          {{identity}},
    at          BIGINT NOT NULL,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    kind        TEXT NOT NULL,
    plugin      TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target      TEXT NOT NULL,
    digest          TEXT,
    config          TEXT,
    previous_plugin TEXT,
    previous        TEXT,
    previous_config TEXT,
    reason          TEXT
);
CREATE INDEX ix_plugin_history_target ON plugin_history (kind, target_kind, target, id);

-- Recorded scheduling rounds, a bounded ring.
CREATE TABLE rounds (
    id            {{identity}},
    scaling_group TEXT NOT NULL,
    at            BIGINT NOT NULL,
    plugin        TEXT NOT NULL,
    digest        TEXT NOT NULL,
    -- 'ok', or why the fallback had to take over.
    outcome       TEXT NOT NULL,
    placed        BIGINT NOT NULL,
    deferred      BIGINT NOT NULL,
    refused       BIGINT NOT NULL,
    duration_us   BIGINT NOT NULL,
    -- Compressed recording (snapshot, proposals, verdicts), or NULL when recording is off.
    recording     BYTEA
);
CREATE INDEX ix_rounds_group ON rounds (scaling_group, id);
