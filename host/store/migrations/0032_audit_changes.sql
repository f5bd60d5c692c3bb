-- What a change of the audit's entries did to rows: values before and after. Never changed, and dropped by age alone, as
-- the entries are.
CREATE TABLE audit_changes (
    id         {{identity}},
    -- No reference: what is older than the horizon goes from either table by itself.
    entry      BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    -- user, keypair, domain, …
    kind       TEXT NOT NULL,
    -- As people know it.
    name       TEXT NOT NULL,
    -- JSON, only what changed, without secrets; NULL = it wasn't there.
    old_values TEXT,
    new_values TEXT
);
CREATE INDEX ix_audit_changes_entry ON audit_changes (entry, id);
CREATE INDEX ix_audit_changes_at ON audit_changes (at);

-- {{sqlite}}
CREATE TRIGGER audit_changes_never_change BEFORE UPDATE ON audit_changes
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit never change');
END;
CREATE TRIGGER audit_changes_stay BEFORE DELETE ON audit_changes
WHEN OLD.at >= (SELECT before FROM _audit_horizon)
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit go by age alone');
END;
-- `INSERT OR REPLACE` would delete without a trigger.
CREATE TRIGGER audit_changes_numbers_are_new BEFORE INSERT ON audit_changes
WHEN EXISTS (SELECT 1 FROM audit_changes WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit never change');
END;
-- {{postgres}}
CREATE TRIGGER audit_changes_stay BEFORE UPDATE OR DELETE ON audit_changes FOR EACH ROW EXECUTE FUNCTION audit_stays();
CREATE TRIGGER audit_changes_are_never_emptied BEFORE TRUNCATE ON audit_changes
    FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();
-- {{end}}
