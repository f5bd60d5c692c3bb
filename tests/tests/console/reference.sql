-- A database with the tables and columns of the reference's 23.03 schema that an import reads, some that it doesn't, and
-- rows as they are found after some years: complete ones, and awkward ones.
CREATE TYPE userstatus AS ENUM ('active', 'inactive', 'deleted', 'before-verification');
CREATE TYPE userroles AS ENUM ('superadmin', 'admin', 'user', 'monitor');
CREATE TYPE defaultforunspecified AS ENUM ('LIMITED', 'UNLIMITED');
CREATE TYPE imagetype AS ENUM ('COMPUTE', 'SYSTEM', 'SERVICE');
CREATE TYPE templatetypes AS ENUM ('TASK', 'CLUSTER');

CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('75ea2b136830');

CREATE TABLE domains (
    name VARCHAR(64) PRIMARY KEY, description VARCHAR(512), is_active BOOLEAN, created_at TIMESTAMPTZ DEFAULT now(),
    modified_at TIMESTAMPTZ DEFAULT now(), total_resource_slots JSONB DEFAULT '{}', allowed_vfolder_hosts JSONB DEFAULT '{}',
    allowed_docker_registries VARCHAR[] DEFAULT '{}', integration_id VARCHAR(512), dotfiles BYTEA DEFAULT '\x90');
INSERT INTO domains (name, description, is_active, created_at, total_resource_slots, allowed_vfolder_hosts,
    allowed_docker_registries, dotfiles) VALUES
    ('default', 'The default', TRUE, '2021-03-04 05:06:07.891+00', '{"cpu": "100", "mem": "1099511627776"}',
     '{"local:volume1": ["mount-in-session", "upload-file"]}', '{cr.site.test}',
     -- One file .vimrc, 644.
     '\x9183a470617468a62e76696d7263a47065726da3363434a464617461a6736574206e75');
INSERT INTO domains (name, is_active) VALUES ('resting', NULL);
INSERT INTO domains (name, is_active, total_resource_slots) VALUES ('broken', TRUE, '{"cpu": "a lot"}');
INSERT INTO domains (name, is_active, dotfiles) VALUES ('scrambled', TRUE, '\xc1ff00');

CREATE TABLE groups (
    id UUID PRIMARY KEY, name VARCHAR(64), description VARCHAR(512), is_active BOOLEAN, created_at TIMESTAMPTZ DEFAULT now(),
    modified_at TIMESTAMPTZ DEFAULT now(), integration_id VARCHAR(512), domain_name VARCHAR(64),
    total_resource_slots JSONB DEFAULT '{}', allowed_vfolder_hosts JSONB DEFAULT '{}', dotfiles BYTEA DEFAULT '\x90');
INSERT INTO groups (id, name, is_active, domain_name) VALUES
    ('2de2b969-1d04-48a6-af16-0bc8adb3c831', 'default', TRUE, 'default'),
    ('00000000-0000-4000-8000-000000000002', 'vision', TRUE, 'default'),
    ('00000000-0000-4000-8000-000000000003', 'lost', TRUE, 'broken'),
    ('00000000-0000-4000-8000-000000000004', NULL, TRUE, 'default');

CREATE TABLE users (
    uuid UUID PRIMARY KEY, username VARCHAR(64), email VARCHAR(64), password VARCHAR, need_password_change BOOLEAN,
    password_changed_at TIMESTAMPTZ DEFAULT now(), full_name VARCHAR(64), description VARCHAR(500), status userstatus,
    status_info VARCHAR, created_at TIMESTAMPTZ DEFAULT now(), modified_at TIMESTAMPTZ DEFAULT now(),
    integration_id VARCHAR(512), domain_name VARCHAR(64), role userroles, allowed_client_ip CIDR[], totp_key VARCHAR(32),
    totp_activated BOOLEAN DEFAULT FALSE, totp_activated_at TIMESTAMPTZ);
INSERT INTO users (uuid, username, email, password, status, domain_name, role, allowed_client_ip, password_changed_at) VALUES
    -- The password is legacy-pw.
    ('f38dea23-50fa-42a0-b5ae-338f5f4693f4', 'admin', 'admin@site.test',
     '$2b$04$abcdefghijklmnopqrstuuBN.HeCpH0C47VOmmA4WMgI4VF7mRcQC', 'active', 'default', 'superadmin', NULL, '2023-01-01 00:00:00+00'),
    ('10000000-0000-4000-8000-000000000002', 'ada', 'ada@site.test',
     '$2b$04$abcdefghijklmnopqrstuuBN.HeCpH0C47VOmmA4WMgI4VF7mRcQC', 'active', 'default', 'user',
     '{127.0.0.0/8,10.0.0.0/8}', '2023-01-01 00:00:00+00'),
    ('10000000-0000-4000-8000-000000000003', 'ada2', 'Ada@site.test', NULL, 'inactive', 'default', 'user', NULL, NULL),
    ('10000000-0000-4000-8000-000000000004', 'gone', 'gone@site.test', 'plain', 'deleted', 'default', 'user', NULL, NULL),
    ('10000000-0000-4000-8000-000000000005', 'mute', NULL, NULL, 'active', 'default', 'user', NULL, NULL),
    ('10000000-0000-4000-8000-000000000006', 'homeless', 'homeless@site.test', NULL, 'active', 'broken', 'user', NULL, NULL),
    ('10000000-0000-4000-8000-000000000007', 'watcher', 'watcher@site.test', NULL, 'active', 'default', 'monitor', NULL, NULL);
UPDATE users SET totp_key = 'K', totp_activated = TRUE, totp_activated_at = now() WHERE username = 'watcher';

CREATE TABLE association_groups_users (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id UUID, group_id UUID);
INSERT INTO association_groups_users (user_id, group_id) VALUES
    ('f38dea23-50fa-42a0-b5ae-338f5f4693f4', '2de2b969-1d04-48a6-af16-0bc8adb3c831'),
    ('10000000-0000-4000-8000-000000000002', '2de2b969-1d04-48a6-af16-0bc8adb3c831'),
    ('10000000-0000-4000-8000-000000000002', '00000000-0000-4000-8000-000000000002'),
    ('10000000-0000-4000-8000-000000000006', '2de2b969-1d04-48a6-af16-0bc8adb3c831'),
    ('10000000-0000-4000-8000-000000000002', '00000000-0000-4000-8000-000000000003');

CREATE TABLE keypair_resource_policies (
    name VARCHAR(256) PRIMARY KEY, created_at TIMESTAMPTZ DEFAULT now(), default_for_unspecified defaultforunspecified,
    total_resource_slots JSONB, max_session_lifetime INTEGER DEFAULT 0, max_concurrent_sessions INTEGER,
    max_concurrent_sftp_sessions INTEGER DEFAULT 1, max_containers_per_session INTEGER, max_vfolder_count INTEGER,
    max_vfolder_size BIGINT, idle_timeout BIGINT, allowed_vfolder_hosts JSONB DEFAULT '{}');
INSERT INTO keypair_resource_policies (name, default_for_unspecified, total_resource_slots, max_concurrent_sessions,
    max_containers_per_session, max_vfolder_count, max_vfolder_size, idle_timeout) VALUES
    ('default', 'UNLIMITED', '{}', 30, 4, 10, 0, 3600), ('student', 'LIMITED', '{"cpu": "2"}', 1, 1, 1, 0, 600),
    ('odd', 'LIMITED', '{}', NULL, 1, 1, 0, 0);

CREATE TABLE keypairs (
    user_id VARCHAR(256), access_key VARCHAR(20) PRIMARY KEY, secret_key VARCHAR(40), is_active BOOLEAN, is_admin BOOLEAN,
    created_at TIMESTAMPTZ DEFAULT now(), modified_at TIMESTAMPTZ DEFAULT now(), last_used TIMESTAMPTZ, rate_limit INTEGER,
    num_queries INTEGER DEFAULT 0, ssh_public_key TEXT, ssh_private_key TEXT, "user" UUID, resource_policy VARCHAR(256),
    bootstrap_script VARCHAR(65536) DEFAULT '', dotfiles BYTEA DEFAULT '\x90');
INSERT INTO keypairs (user_id, access_key, secret_key, is_active, is_admin, rate_limit, num_queries, ssh_public_key,
    ssh_private_key, "user", resource_policy, bootstrap_script) VALUES
    ('admin@site.test', 'AKIAIMPORTADMIN00001', 'importAdminSecret00000000000000000000001', TRUE, TRUE, 30000, 7, 'ssh-rsa A',
     'private', 'f38dea23-50fa-42a0-b5ae-338f5f4693f4', 'default', 'echo hello'),
    ('ada@site.test', 'AKIAIMPORTUSER000002', 'importUserSecret000000000000000000000002', TRUE, FALSE, NULL, 0, NULL, NULL,
     '10000000-0000-4000-8000-000000000002', 'student', ''),
    ('ada@site.test', 'AKIAIMPORTLOST000003', 'importLostSecret000000000000000000000003', TRUE, FALSE, 100, 0, NULL, NULL,
     '10000000-0000-4000-8000-000000000002', 'vanished', ''),
    ('mute', 'AKIAIMPORTMUTE000004', 'importMuteSecret000000000000000000000004', TRUE, FALSE, 100, 0, NULL, NULL,
     '10000000-0000-4000-8000-000000000005', 'default', ''),
    ('ada@site.test', 'AKIAIMPORTNULL000005', NULL, NULL, NULL, 100, 0, NULL, NULL,
     '10000000-0000-4000-8000-000000000002', 'default', '');

CREATE TABLE scaling_groups (
    name VARCHAR(64) PRIMARY KEY, description VARCHAR(512), is_active BOOLEAN, is_public BOOLEAN DEFAULT TRUE,
    created_at TIMESTAMPTZ DEFAULT now(), wsproxy_addr VARCHAR(1024), wsproxy_api_token VARCHAR(128), driver VARCHAR(64),
    driver_opts JSONB DEFAULT '{}', scheduler VARCHAR(64), scheduler_opts JSONB, use_host_network BOOLEAN DEFAULT FALSE);
INSERT INTO scaling_groups (name, is_active, driver, scheduler, scheduler_opts) VALUES
    ('default', TRUE, 'static', 'fifo',
     '{"allowed_session_types": ["interactive", "batch"], "pending_timeout": 0, "config": {}}'),
    ('gpu', TRUE, 'static', 'drf', '{"allowed_session_types": ["batch"], "colour": "blue"}');
CREATE TABLE sgroups_for_domains (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), scaling_group VARCHAR(64), domain VARCHAR(64));
CREATE TABLE sgroups_for_groups (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), scaling_group VARCHAR(64), "group" UUID);
CREATE TABLE sgroups_for_keypairs (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), scaling_group VARCHAR(64), access_key VARCHAR(20));
INSERT INTO sgroups_for_domains (scaling_group, domain) VALUES ('default', 'default'), ('gone', 'default');
INSERT INTO sgroups_for_groups (scaling_group, "group") VALUES ('gpu', '00000000-0000-4000-8000-000000000002');
INSERT INTO sgroups_for_keypairs (scaling_group, access_key) VALUES
    ('gpu', 'AKIAIMPORTUSER000002'), ('gpu', 'AKIAIMPORTMUTE000004');

CREATE TABLE resource_presets (name VARCHAR(256) PRIMARY KEY, resource_slots JSONB, shared_memory BIGINT);
INSERT INTO resource_presets VALUES ('small', '{"cpu": "1", "mem": "1073741824"}', 67108864), ('odd', '{"cpu": []}', NULL);

CREATE TABLE images (
    id UUID PRIMARY KEY, name VARCHAR, image VARCHAR, created_at TIMESTAMPTZ DEFAULT now(), tag TEXT, registry VARCHAR,
    architecture VARCHAR, config_digest CHAR(72), size_bytes BIGINT, is_local BOOLEAN DEFAULT FALSE, type imagetype,
    accelerators VARCHAR, labels JSON, resources JSONB);
INSERT INTO images (id, name, image, tag, registry, architecture, config_digest, size_bytes, type, accelerators, labels, resources)
    VALUES ('20000000-0000-4000-8000-000000000001', 'cr.site.test/stable/python:3.9-ubuntu20.04', 'stable/python',
    '3.9-ubuntu20.04', 'cr.site.test', 'x86_64', 'sha256:1111111111111111111111111111111111111111111111111111111111111111',
    300000000, 'COMPUTE', '', '{"ai.backend.kernelspec": "1", "ai.backend.runtime-type": "python"}',
    '{"cpu": {"min": "1", "max": null}, "mem": {"min": "64m", "max": null}}');
CREATE TABLE image_aliases (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), alias VARCHAR UNIQUE, image UUID);
INSERT INTO image_aliases (alias, image) VALUES
    ('python', '20000000-0000-4000-8000-000000000001'), ('ghost', '20000000-0000-4000-8000-000000000009');

CREATE TABLE session_templates (
    id UUID PRIMARY KEY, created_at TIMESTAMPTZ DEFAULT now(), is_active BOOLEAN, type templatetypes, name VARCHAR(128),
    domain_name VARCHAR(64), group_id UUID, user_uuid UUID, template JSONB);
INSERT INTO session_templates (id, is_active, type, name, domain_name, group_id, user_uuid, template) VALUES
    ('30000000-0000-4000-8000-000000000001', TRUE, 'TASK', 'small', 'default', '2de2b969-1d04-48a6-af16-0bc8adb3c831',
     '10000000-0000-4000-8000-000000000002', '{"api_version": "v1", "kind": "taskTemplate", "metadata": {"name": "small"},
     "spec": {"kernel": {"image": "cr.site.test/stable/python:3.9-ubuntu20.04"}}}'),
    ('30000000-0000-4000-8000-000000000002', TRUE, 'TASK', 'odd', 'default', '2de2b969-1d04-48a6-af16-0bc8adb3c831',
     '10000000-0000-4000-8000-000000000002', '{"kind": 1}'),
    ('30000000-0000-4000-8000-000000000003', FALSE, 'TASK', 'old', 'default', '2de2b969-1d04-48a6-af16-0bc8adb3c831',
     '10000000-0000-4000-8000-000000000002', '{}');

CREATE TYPE vfolderusagemode AS ENUM ('general', 'model', 'data');
CREATE TYPE vfolderpermission AS ENUM ('ro', 'rw', 'wd');
CREATE TYPE vfolderownershiptype AS ENUM ('user', 'group');
CREATE TYPE vfolderoperationstatus AS ENUM ('ready', 'performing', 'cloning', 'deleting', 'mounted', 'purged');
CREATE TYPE vfolderinvitationstate AS ENUM ('pending', 'canceled', 'accepted', 'rejected');
CREATE TABLE vfolders (
    id UUID PRIMARY KEY, host VARCHAR(128), quota_scope_id VARCHAR(64), name VARCHAR(64), usage_mode vfolderusagemode
    DEFAULT 'general', permission vfolderpermission DEFAULT 'rw', max_files INTEGER DEFAULT 1000, max_size INTEGER,
    num_files INTEGER DEFAULT 0, cur_size INTEGER DEFAULT 0, created_at TIMESTAMPTZ DEFAULT now(), last_used TIMESTAMPTZ,
    creator VARCHAR(128), unmanaged_path VARCHAR(512), ownership_type vfolderownershiptype DEFAULT 'user', "user" UUID,
    "group" UUID, cloneable BOOLEAN DEFAULT FALSE, status vfolderoperationstatus DEFAULT 'ready');
INSERT INTO vfolders (id, host, quota_scope_id, name, usage_mode, max_size, created_at, last_used, creator, "user",
    cloneable) VALUES
    ('40000000-0000-4000-8000-000000000001', 'local:volume1', '10000000000040008000000000000002', 'work', 'data', 1024,
     '2023-04-05 06:07:08+00', '2023-05-06 07:08:09+00', 'ada@site.test', '10000000-0000-4000-8000-000000000002', TRUE);
INSERT INTO vfolders (id, host, quota_scope_id, name, permission, creator, ownership_type, "group") VALUES
    ('40000000-0000-4000-8000-000000000002', 'local:volume1', '00000000000040008000000000000002', 'shared', 'ro',
     'admin@site.test', 'group', '00000000-0000-4000-8000-000000000002'),
    ('40000000-0000-4000-8000-000000000012', 'local:volume1', '00000000000040008000000000000002', '.hidden', 'ro',
     'admin@site.test', 'group', '00000000-0000-4000-8000-000000000002');
INSERT INTO vfolders (id, host, quota_scope_id, name, creator, "user", status, unmanaged_path) VALUES
    ('40000000-0000-4000-8000-000000000003', 'local:volume1', '10000000000040008000000000000002', 'work',
     'ada@site.test', '10000000-0000-4000-8000-000000000002', 'ready', NULL),
    ('40000000-0000-4000-8000-000000000004', 'local:volume1', '10000000000040008000000000000006', 'orphan',
     'homeless@site.test', '10000000-0000-4000-8000-000000000006', 'ready', NULL),
    ('40000000-0000-4000-8000-000000000005', 'local:volume1', '10000000000040008000000000000002', 'past',
     'ada@site.test', '10000000-0000-4000-8000-000000000002', 'purged', NULL),
    ('40000000-0000-4000-8000-000000000006', 'local:volume1', '10000000000040008000000000000002', 'bad/name',
     'ada@site.test', '10000000-0000-4000-8000-000000000002', 'ready', NULL),
    ('40000000-0000-4000-8000-000000000007', 'local:volume1', '10000000000040008000000000000002', 'leaving',
     'ada@site.test', '10000000-0000-4000-8000-000000000002', 'deleting', NULL),
    ('40000000-0000-4000-8000-000000000008', 'remote:volume2', '10000000000040008000000000000002', 'copying',
     'ada@site.test', '10000000-0000-4000-8000-000000000002', 'cloning', NULL),
    ('40000000-0000-4000-8000-000000000009', 'local:volume1', '10000000000040008000000000000002', '.bashrc',
     'ada@site.test', '10000000-0000-4000-8000-000000000002', 'ready', NULL),
    ('40000000-0000-4000-8000-000000000010', '', 'f38dea2350fa42a0b5ae338f5f4693f4', 'unmanaged',
     'admin@site.test', 'f38dea23-50fa-42a0-b5ae-338f5f4693f4', 'ready', '/mnt/datasets'),
    ('40000000-0000-4000-8000-000000000011', 'nowhere', '10000000000040008000000000000002', 'astray',
     'ada@site.test', '10000000-0000-4000-8000-000000000002', 'ready', NULL),
    ('40000000-0000-4000-8000-000000000013', 'local:volume1', '10000000000040008000000000000002', 'free',
     'ada@site.test', NULL, 'ready', NULL),
    ('40000000-0000-4000-8000-000000000014', 'local:volume1', NULL, 'early', NULL,
     'f38dea23-50fa-42a0-b5ae-338f5f4693f4', 'ready', NULL);

CREATE TABLE vfolder_permissions (id UUID PRIMARY KEY, permission vfolderpermission DEFAULT 'rw', vfolder UUID, "user" UUID);
INSERT INTO vfolder_permissions (id, permission, vfolder, "user") VALUES
    ('50000000-0000-4000-8000-000000000001', 'wd', '40000000-0000-4000-8000-000000000001', 'f38dea23-50fa-42a0-b5ae-338f5f4693f4'),
    ('50000000-0000-4000-8000-000000000002', 'ro', '40000000-0000-4000-8000-000000000001', 'f38dea23-50fa-42a0-b5ae-338f5f4693f4'),
    ('50000000-0000-4000-8000-000000000003', 'ro', '40000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000002'),
    ('50000000-0000-4000-8000-000000000004', 'ro', '40000000-0000-4000-8000-000000000004', '10000000-0000-4000-8000-000000000002'),
    ('50000000-0000-4000-8000-000000000005', 'ro', '40000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000006');

CREATE TABLE vfolder_invitations (
    id UUID PRIMARY KEY, permission vfolderpermission DEFAULT 'rw', inviter VARCHAR(256), invitee VARCHAR(256),
    state vfolderinvitationstate DEFAULT 'pending', created_at TIMESTAMPTZ DEFAULT now(), modified_at TIMESTAMPTZ,
    vfolder UUID);
INSERT INTO vfolder_invitations (id, inviter, invitee, state, vfolder, modified_at) VALUES
    ('60000000-0000-4000-8000-000000000001', 'ada@site.test', 'admin@site.test', 'accepted',
     '40000000-0000-4000-8000-000000000001', '2023-06-07 08:09:10+00'),
    ('60000000-0000-4000-8000-000000000002', 'ada@site.test', 'watcher@site.test', 'pending',
     '40000000-0000-4000-8000-000000000001', NULL),
    ('60000000-0000-4000-8000-000000000003', 'ada@site.test', 'watcher@site.test', 'pending',
     '40000000-0000-4000-8000-000000000001', NULL),
    ('60000000-0000-4000-8000-000000000004', 'ada@site.test', 'nobody@site.test', 'pending',
     '40000000-0000-4000-8000-000000000001', NULL),
    ('60000000-0000-4000-8000-000000000005', 'ada@site.test', 'watcher@site.test', 'pending',
     '40000000-0000-4000-8000-000000000007', NULL);

-- Not read.
CREATE TABLE sessions (id UUID PRIMARY KEY);
CREATE TABLE error_logs (id UUID PRIMARY KEY);
