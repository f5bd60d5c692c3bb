-- How kernels and agents do, as the host that hears them tells the other hosts every few seconds. Rows that nobody renews are
-- dropped.
CREATE TABLE live_statistics (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    stat TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
