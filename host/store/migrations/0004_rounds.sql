-- Recordings stand apart from the rounds' summaries: lists read those often and must not walk through blobs, and the
-- oldest recordings of a group go first when its ring holds too many bytes.
CREATE TABLE round_recordings (
    round_id      BIGINT PRIMARY KEY REFERENCES rounds (id) ON DELETE CASCADE,
    scaling_group TEXT NOT NULL,
    -- Bytes of the recording.
    size          BIGINT NOT NULL,
    -- Snapshot, facts, proposals and verdicts, compressed.
    recording     BYTEA NOT NULL
);
CREATE INDEX ix_round_recordings_group ON round_recordings (scaling_group, round_id, size);

-- The scheduler's version; empty when none served.
ALTER TABLE rounds ADD COLUMN version TEXT NOT NULL DEFAULT '';
-- Sessions that were to be placed.
ALTER TABLE rounds ADD COLUMN pending BIGINT NOT NULL DEFAULT 0;
-- Decisions that no longer held when they were to be written.
ALTER TABLE rounds ADD COLUMN stale BIGINT NOT NULL DEFAULT 0;

INSERT INTO round_recordings (round_id, scaling_group, size, recording)
SELECT id, scaling_group, LENGTH(recording), recording FROM rounds WHERE recording IS NOT NULL;
-- After the additions: SQLite can't drop a last column that a comment precedes.
ALTER TABLE rounds DROP COLUMN recording;
