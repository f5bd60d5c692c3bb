-- The life of plugin revisions, step by step: who took it, how long it took, and why it failed.
CREATE TABLE plugin_steps (
    id          {{identity}},
    digest      TEXT NOT NULL
                CONSTRAINT fk_plugin_steps_revision REFERENCES plugin_revisions (digest) ON DELETE CASCADE,
    -- 'uploaded', 'verified', 'compiled', 'self-tested', 'shadow', 'active', 'retired' or 'suspended'
    step        TEXT NOT NULL,
    -- 'running', 'ok' or 'failed'
    status      TEXT NOT NULL,
    -- The host that took the step.
    host        TEXT NOT NULL,
    at          BIGINT NOT NULL,
    -- NULL while it runs.
    duration_us BIGINT,
    -- An e-mail address, or 'host'.
    actor       TEXT NOT NULL,
    reason      TEXT
);
CREATE INDEX ix_plugin_steps_digest ON plugin_steps (digest, id);

-- What else a binding was made of, so that a rollback brings all of it back.
ALTER TABLE plugin_history ADD COLUMN position BIGINT;
ALTER TABLE plugin_history ADD COLUMN failure_policy TEXT;
ALTER TABLE plugin_history ADD COLUMN previous_position BIGINT;
ALTER TABLE plugin_history ADD COLUMN previous_failure_policy TEXT;
