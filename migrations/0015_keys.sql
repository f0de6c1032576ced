-- By what the keys of callers are hashed where no server was given a secret for it. One row.
create table key_secrets (
    one boolean constraint key_secret_pkey primary key default true,
    secret bytea not null,
    constraint key_secret_one check (one)
);
insert into key_secrets (secret)
values (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- The keys of callers. None of them is here: `hash` is the HMAC-SHA-256 of a key by a secret; see src/access/secret.rs.
create table keys (
    id uuid constraint key_pkey primary key,
    name text not null constraint key_name_length check (char_length(name) between 1 and 255),
    -- The beginning of the key, for people.
    prefix text not null constraint key_prefix_length check (char_length(prefix) = 8),
    hash bytea not null constraint key_hash_key unique constraint key_hash_length check (octet_length(hash) = 32),
    -- What tells the secret of `hash` from others.
    secret_id bytea not null,
    -- The key before, which works until then as well.
    former_hash bytea constraint key_former_hash_key unique,
    former_until timestamptz,
    role text not null constraint key_role_known check (role in ('identify', 'read', 'enrol', 'admin', 'owner')),
    -- Else it is for those of `key_galleries`; for none at all if they are gone.
    all_galleries boolean not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    uses bigint not null default 0,
    constraint key_former_whole check ((former_hash is null) = (former_until is null))
);
create unique index key_name_key on keys (name) where revoked_at is null;

create table key_galleries (
    key_id uuid not null constraint key_gallery_key_fkey references keys (id) on delete cascade,
    gallery_id uuid not null constraint key_gallery_gallery_fkey references galleries (id) on delete cascade,
    constraint key_gallery_pkey primary key (key_id, gallery_id)
);
create index key_gallery_gallery_idx on key_galleries (gallery_id);

-- Servers hold keys in memory. The channel is called as in src/db/scope.rs.
create function announce_keys() returns trigger language plpgsql as $$
begin
    perform pg_notify(
        'faceid_keys' || case tg_table_schema when 'public' then '' else '_' || md5(tg_table_schema) end, ''
    );
    return null;
end $$;

-- Not when it was used last.
create trigger keys_announced
    after insert or delete or truncate
    or update of name, hash, secret_id, former_hash, former_until, role, all_galleries, expires_at, revoked_at on keys
    for each statement execute function announce_keys();
create trigger key_galleries_announced
    after insert or update or delete or truncate on key_galleries
    for each statement execute function announce_keys();
