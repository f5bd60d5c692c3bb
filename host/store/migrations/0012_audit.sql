-- Who changed what, when, from where. Written by the very transaction that makes the change; never changed, and dropped
-- by age alone.
CREATE TABLE audit (
    id         {{identity}},
    at         BIGINT NOT NULL,
    -- rest, graphql, cli or system.
    via        TEXT NOT NULL,
    -- No references: entries outlive whom and what they tell of.
    actor_id   TEXT,
    actor      TEXT,
    access_key TEXT,
    address    TEXT,
    request_id TEXT,
    action     TEXT NOT NULL,
    target     TEXT NOT NULL,
    -- JSON: what was asked for, without secrets.
    details    TEXT
);
CREATE INDEX ix_audit_at ON audit (at);
CREATE INDEX ix_audit_actor ON audit (actor, id);
CREATE INDEX ix_audit_action ON audit (action, id);

-- Entries from before this instant may go. It never comes closer than a day to the present. Backups leave it out.
CREATE TABLE _audit_horizon (
    only_one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (only_one),
    before   BIGINT NOT NULL
);
INSERT INTO _audit_horizon (before) VALUES (0);

-- {{sqlite}}
CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit never change');
END;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit
WHEN OLD.at >= (SELECT before FROM _audit_horizon)
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit go by age alone');
END;
-- `INSERT OR REPLACE` would delete without a trigger.
CREATE TRIGGER audit_numbers_are_new BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit never change');
END;
CREATE TRIGGER audit_horizon_keeps_a_day BEFORE UPDATE ON _audit_horizon
WHEN NEW.before > (CAST(strftime('%s', 'now') AS INTEGER) - 86400) * 1000000
BEGIN
    SELECT RAISE(ABORT, 'the audit keeps a day at least');
END;
CREATE TRIGGER audit_horizon_stays BEFORE DELETE ON _audit_horizon
BEGIN
    SELECT RAISE(ABORT, 'the audit keeps its horizon');
END;
-- {{postgres}}
CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < (SELECT before FROM _audit_horizon) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'entries of the audit never change, and go by age alone';
END
$$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_stays();
CREATE TRIGGER audit_is_never_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();
CREATE FUNCTION audit_horizon_keeps_a_day() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.before <= (EXTRACT(EPOCH FROM now())::bigint - 86400) * 1000000 THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit keeps a day at least';
END
$$;
CREATE TRIGGER audit_horizon_keeps_a_day BEFORE UPDATE OR DELETE ON _audit_horizon
    FOR EACH ROW EXECUTE FUNCTION audit_horizon_keeps_a_day();
-- {{end}}
