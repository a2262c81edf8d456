-- The log grows through this function alone, with its owner's rights: whoever calls it needs none on the tables.
-- pg_temp comes last, or a caller's temporary table of the same name would take the entries.
ALTER FUNCTION opsagent_audit(text, uuid, text, text) SECURITY DEFINER;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION opsagent_audit(text, uuid, text, text) SET search_path = %I, pg_temp', current_schema());
END;
$$;
REVOKE ALL ON FUNCTION opsagent_audit(text, uuid, text, text) FROM PUBLIC;

-- Nor does the head go anywhere but to the entry behind it.
CREATE FUNCTION opsagent_head_goes_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' OR NEW.id <> OLD.id + 1
       OR NOT EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id AND hash = NEW.hash) THEN
        RAISE EXCEPTION 'the audit log is append-only';
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER goes_on BEFORE UPDATE OR DELETE ON audit_head
    FOR EACH ROW EXECUTE FUNCTION opsagent_head_goes_on();
CREATE TRIGGER append_only BEFORE TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION opsagent_append_only();

-- Gives a role what the service needs, and takes what it does not: it writes all tables of ours but the audit log and the
-- schema's own records, which it reads, and it creates, alters and owns nothing. Run again after each migration.
CREATE FUNCTION opsagent_grant(_role name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    _schema name := current_schema();
    _owner oid := (SELECT relowner FROM pg_class WHERE oid = 'audit_log'::regclass);
    _table name;
    _function regprocedure;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = _role) THEN
        RAISE EXCEPTION 'there is no role %: make it first with CREATE ROLE % LOGIN', quote_ident(_role), quote_ident(_role);
    END IF;
    IF pg_has_role(_role, _owner, 'MEMBER') THEN
        RAISE EXCEPTION 'the role % may act as the owner of the tables, so it could change all of them: use another one',
            quote_ident(_role);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', _schema, _role);
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM %I', _schema, _role);
    FOR _table IN SELECT relname FROM pg_class
                   WHERE relnamespace = _schema::regnamespace AND relowner = _owner AND relkind IN ('r', 'p', 'v')
    LOOP
        EXECUTE format('REVOKE ALL ON TABLE %I.%I FROM %I', _schema, _table, _role);
        EXECUTE format('GRANT SELECT ON TABLE %I.%I TO %I', _schema, _table, _role);
        IF _table NOT IN ('audit_log', 'audit_head', 'opsagent_schema', 'alembic_version', 'checkpoint_migrations') THEN
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON TABLE %I.%I TO %I', _schema, _table, _role);
        END IF;
    END LOOP;
    FOR _table IN SELECT relname FROM pg_class
                   WHERE relnamespace = _schema::regnamespace AND relowner = _owner AND relkind = 'S'
    LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE %I.%I TO %I', _schema, _table, _role);
    END LOOP;
    FOR _function IN SELECT oid::regprocedure FROM pg_proc
                      WHERE pronamespace = _schema::regnamespace AND proowner = _owner AND proname <> 'opsagent_grant'
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', _function, _role);
    END LOOP;
END;
$$;
REVOKE ALL ON FUNCTION opsagent_grant(name) FROM PUBLIC;
