-- What key pairs and projects have held, older times counting less and less: the integral of what they held over time
-- (contract units × seconds), each moment weighted by 2^((moment − landmark) / half-life). So blown up, the sums of
-- holders that hold nothing need no upkeep; to read them, divide by 2^((now − landmark) / half-life).
CREATE TABLE usage_history (
    -- 'keypair' or 'project'
    scope  TEXT NOT NULL,
    holder TEXT NOT NULL,
    slot   TEXT NOT NULL,
    amount DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (scope, holder, slot)
);

-- One row: up to when the sums go, and how they are weighted.
CREATE TABLE usage_clock (
    id           BIGINT PRIMARY KEY,
    at           BIGINT NOT NULL,
    landmark     BIGINT NOT NULL,
    half_life_ms BIGINT NOT NULL
);
