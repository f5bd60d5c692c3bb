-- The key pair by which the kernels of a session reach each other. Gone with the session's end.
CREATE TABLE cluster_keys (
    session_id  TEXT PRIMARY KEY CONSTRAINT fk_cluster_keys_session REFERENCES sessions (id) ON DELETE CASCADE,
    public_key  TEXT NOT NULL,
    private_key TEXT NOT NULL
);
