-- What kernels were given, and what they used: written now and then while they run, and for good after their end.
CREATE TABLE usage_records (
    kernel_id     TEXT PRIMARY KEY CONSTRAINT fk_usage_records_kernel REFERENCES kernels (id) ON DELETE CASCADE,
    user_id       TEXT NOT NULL,
    begun_at      BIGINT NOT NULL,
    -- NULL while it runs.
    ended_at      BIGINT,
    -- Contract units: thousandths of a core, bytes, thousandths of a device.
    cpu_allocated BIGINT NOT NULL,
    mem_allocated BIGINT NOT NULL,
    gpu_allocated BIGINT NOT NULL,
    -- Whether anybody measured it; if not, what follows is 0.
    measured      BOOLEAN NOT NULL,
    -- Milliseconds of processor time.
    cpu_used      DOUBLE PRECISION NOT NULL,
    -- Bytes.
    mem_used      BIGINT NOT NULL,
    disk_used     BIGINT NOT NULL,
    io_read       BIGINT NOT NULL,
    io_write      BIGINT NOT NULL
);
CREATE INDEX ix_usage_records_ended ON usage_records (ended_at);
CREATE INDEX ix_usage_records_user ON usage_records (user_id, ended_at);
CREATE INDEX ix_kernels_ended ON kernels (terminated_at) WHERE status = 'TERMINATED';
