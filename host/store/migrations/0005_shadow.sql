-- Policies that watch: what shadow bindings would have decided.

-- Sums since a binding was made. Sessions are placed ones for schedulers and idle ones for idle checkers; for hooks they
-- are events that were denied.
CREATE TABLE shadow_totals (
    binding         TEXT PRIMARY KEY
                    CONSTRAINT fk_shadow_totals_binding REFERENCES plugin_bindings (id) ON DELETE CASCADE,
    since           BIGINT NOT NULL,
    last_at         BIGINT,
    -- Rounds, ticks or events that were played; that came too fast; of those played: that failed, and without difference.
    seen            BIGINT NOT NULL DEFAULT 0,
    skipped         BIGINT NOT NULL DEFAULT 0,
    failed          BIGINT NOT NULL DEFAULT 0,
    alike           BIGINT NOT NULL DEFAULT 0,
    failed_in_a_row BIGINT NOT NULL DEFAULT 0,
    -- Sessions: decided alike by both, by both on other agents, by one of them only.
    same            BIGINT NOT NULL DEFAULT 0,
    elsewhere       BIGINT NOT NULL DEFAULT 0,
    only_live       BIGINT NOT NULL DEFAULT 0,
    only_candidate  BIGINT NOT NULL DEFAULT 0,
    -- How long the placed ones had waited, and sums of what each round cost and left.
    live_waited_ms           BIGINT NOT NULL DEFAULT 0,
    candidate_waited_ms      BIGINT NOT NULL DEFAULT 0,
    live_us                  BIGINT NOT NULL DEFAULT 0,
    candidate_us             BIGINT NOT NULL DEFAULT 0,
    live_fragmentation       DOUBLE PRECISION NOT NULL DEFAULT 0,
    candidate_fragmentation  DOUBLE PRECISION NOT NULL DEFAULT 0,
    -- When it was put to rest, and why.
    rested_at       BIGINT,
    rested_reason   TEXT
);

-- The rounds, ticks and events in which it would have decided otherwise, or failed: a bounded ring for each binding.
CREATE TABLE shadow_runs (
    id             {{identity}},
    binding        TEXT NOT NULL
                   CONSTRAINT fk_shadow_runs_binding REFERENCES plugin_bindings (id) ON DELETE CASCADE,
    -- The round's id in the ring, if it was on record; NULL for ticks and events.
    round          BIGINT,
    at             BIGINT NOT NULL,
    -- 'ok', or how the candidate failed.
    outcome        TEXT NOT NULL,
    same           BIGINT NOT NULL,
    elsewhere      BIGINT NOT NULL,
    only_live      BIGINT NOT NULL,
    only_candidate BIGINT NOT NULL,
    live_waited_ms           BIGINT NOT NULL,
    candidate_waited_ms      BIGINT NOT NULL,
    live_us                  BIGINT NOT NULL,
    candidate_us             BIGINT NOT NULL,
    live_fragmentation       DOUBLE PRECISION NOT NULL,
    candidate_fragmentation  DOUBLE PRECISION NOT NULL,
    -- Compressed JSON: who fares how.
    details        BYTEA
);
CREATE INDEX ix_shadow_runs_binding ON shadow_runs (binding, id);
