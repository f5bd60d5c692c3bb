-- Whose signature a component bears, as it was checked when it came in.
CREATE TABLE plugin_signatures (
    digest     TEXT PRIMARY KEY
               CONSTRAINT fk_plugin_signatures_revision REFERENCES plugin_revisions (digest) ON DELETE CASCADE,
    key_name   TEXT NOT NULL,
    -- 16 upper-case hex digits, as minisign shows them.
    key_id     TEXT NOT NULL,
    -- The trusted comment: what the signer vouches for beside the component.
    comment    TEXT NOT NULL,
    -- The signature document, so that it can be checked again.
    signature  TEXT NOT NULL,
    checked_at BIGINT NOT NULL
);

-- The files of watched directories: what each host found, and what became of it.
CREATE TABLE plugin_drops (
    -- Host and directory.
    place   TEXT NOT NULL,
    -- Name of the component's file.
    file    TEXT NOT NULL,
    -- SHA-256 over all that belongs to the file (component, signature, settings), or the fault that keeps it from being read.
    content TEXT NOT NULL,
    -- SHA-256 of the component.
    digest  TEXT,
    -- `name@version`, once it is known.
    plugin  TEXT,
    -- 'ok', 'refused' or 'waiting'
    state   TEXT NOT NULL,
    reason  TEXT,
    -- JSON: the binding that the settings ask for, and whether it ends with the file.
    binding TEXT,
    at      BIGINT NOT NULL,
    PRIMARY KEY (place, file)
);

-- What was done about a file name's content, once for all hosts: who rolls back what a file did isn't undone.
CREATE TABLE plugin_drop_acts (
    file    TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    -- Who acts, or did: the process, and where it found the file.
    holder  TEXT NOT NULL,
    place   TEXT NOT NULL,
    -- 'waiting' while somebody is at it, then 'ok' or 'refused'
    state   TEXT NOT NULL,
    reason  TEXT,
    plugin  TEXT,
    -- When this content was taken up first.
    since   BIGINT NOT NULL,
    -- When somebody else may take it up, unless it is done.
    next_at BIGINT NOT NULL,
    tries   BIGINT NOT NULL
);
