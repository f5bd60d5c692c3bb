-- Virtual folders, who else may use them, and invitations to that.
CREATE TABLE vfolders (
    id             TEXT PRIMARY KEY,
    name           TEXT NOT NULL,
    -- `<proxy>:<volume>`; empty for a folder that is a path of the agents' own.
    host           TEXT NOT NULL,
    -- Under which directory of the volume it lies; stays when the owner changes.
    quota_scope_id TEXT NOT NULL,
    usage_mode     TEXT NOT NULL,
    permission     TEXT NOT NULL,
    -- MiB; none or 0 = no limit.
    max_size       BIGINT,
    created_at     BIGINT NOT NULL,
    last_used      BIGINT,
    -- E-mail address of whoever made it.
    creator        TEXT NOT NULL,
    unmanaged_path TEXT,
    ownership_type TEXT NOT NULL,
    user_id        TEXT CONSTRAINT fk_vfolders_user REFERENCES users (id),
    project_id     TEXT CONSTRAINT fk_vfolders_project REFERENCES projects (id),
    cloneable      BOOLEAN NOT NULL DEFAULT FALSE,
    status         TEXT NOT NULL,
    status_changed BIGINT NOT NULL,
    CONSTRAINT ck_vfolders_owner CHECK ((user_id IS NULL) <> (project_id IS NULL))
);
CREATE INDEX ix_vfolders_user ON vfolders (user_id, created_at);
CREATE INDEX ix_vfolders_project ON vfolders (project_id, created_at);
CREATE INDEX ix_vfolders_busy ON vfolders (status) WHERE status <> 'ready';

-- What a user who isn't the owner may do: made by accepting an invitation, or by sharing a project's folder.
CREATE TABLE vfolder_permissions (
    vfolder_id TEXT NOT NULL CONSTRAINT fk_vfolder_permissions_vfolder REFERENCES vfolders (id) ON DELETE CASCADE,
    user_id    TEXT NOT NULL CONSTRAINT fk_vfolder_permissions_user REFERENCES users (id) ON DELETE CASCADE,
    permission TEXT NOT NULL,
    PRIMARY KEY (vfolder_id, user_id)
);
CREATE INDEX ix_vfolder_permissions_user ON vfolder_permissions (user_id);

CREATE TABLE vfolder_invitations (
    id          TEXT PRIMARY KEY,
    vfolder_id  TEXT NOT NULL CONSTRAINT fk_vfolder_invitations_vfolder REFERENCES vfolders (id) ON DELETE CASCADE,
    -- E-mail addresses.
    inviter     TEXT NOT NULL,
    invitee     TEXT NOT NULL,
    permission  TEXT NOT NULL,
    state       TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT
);
CREATE INDEX ix_vfolder_invitations_invitee ON vfolder_invitations (invitee, state);
CREATE INDEX ix_vfolder_invitations_inviter ON vfolder_invitations (inviter, state);
CREATE INDEX ix_vfolder_invitations_vfolder ON vfolder_invitations (vfolder_id);
