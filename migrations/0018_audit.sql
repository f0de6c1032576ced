-- One record of all that was asked and changed takes the place of that of models. It is only ever added to, and chained by hashes;
-- docs/audit.md says how. It names galleries, subjects and models by ids, without foreign keys: entries outlive what they are about.
alter table audit rename to model_audit;
alter table model_audit rename constraint audit_pkey to model_audit_pkey;

create table audit (
    id uuid constraint audit_pkey primary key,
    at timestamptz not null,
    -- The name of a key, or what let somebody in without one.
    actor text not null,
    -- Of the key, if it is one of the database.
    key_id uuid,
    request_id text,
    action text not null,
    outcome text,
    -- Those that it concerns; none: all, or none in particular.
    galleries uuid[] not null default '{}',
    subjects uuid[] not null default '{}',
    model_id uuid,
    -- A JSON object, kept as it was written: its bytes are hashed.
    details text not null default '{}',
    -- Null until it is sealed.
    position bigint constraint audit_position_key unique constraint audit_position_positive check (position > 0),
    hash bytea constraint audit_hash_length check (octet_length(hash) = 32),
    constraint audit_sealed_whole check ((position is null) = (hash is null))
);
create index audit_unsealed_idx on audit (id) where position is null;
create index audit_subjects_idx on audit using gin (subjects) where subjects <> '{}';

-- A gallery was named there; now it has its id, if it is still called so.
insert into audit (id, at, actor, action, model_id, galleries, details)
    select id, at, actor, action, model_id,
        array(select g.id from galleries g where g.name = details ->> 'gallery' and g.erased_at is null),
        (details - 'gallery')::text
    from model_audit;
drop table model_audit;

-- The ends of the chain. One row.
create table audit_chain (
    one boolean constraint audit_chain_pkey primary key default true constraint audit_chain_one check (one),
    -- The last that was sealed.
    position bigint not null default 0,
    hash bytea not null default decode(repeat('00', 32), 'hex'),
    -- The last that was dropped, because it was old.
    dropped_position bigint not null default 0,
    dropped_hash bytea not null default decode(repeat('00', 32), 'hex')
);
insert into audit_chain default values;

-- An entry is sealed once, within the ends of the chain, and goes only where the chain says that it was dropped. Whoever owns the tables
-- can take this away; then the chain shows what they did.
create function keep_audit() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        if old.position is null and new.position is not null
            and (new.id, new.at, new.actor, new.key_id, new.request_id, new.action, new.outcome, new.galleries, new.subjects,
                new.model_id, new.details)
            is not distinct from (old.id, old.at, old.actor, old.key_id, old.request_id, old.action, old.outcome, old.galleries,
                old.subjects, old.model_id, old.details)
            and exists (select from audit_chain where new.position > dropped_position and new.position <= position)
        then
            return new;
        end if;
    elsif tg_op = 'DELETE' then
        if old.position <= (select dropped_position from audit_chain) then
            return old;
        end if;
    end if;
    raise exception 'the audit is only added to' using errcode = 'insufficient_privilege';
end $$;
create trigger audit_kept before update or delete on audit for each row execute function keep_audit();
-- Only what has no place yet gets one.
create trigger audit_comes_unsealed before insert on audit for each row when (new.position is not null)
    execute function keep_audit();
create trigger audit_not_truncated before truncate on audit for each statement execute function keep_audit();

-- The ends of the chain only move on, the beginning only to an entry that is there: else whoever may write to the tables could move it and
-- then delete what is sealed. What is deleted that way is found all the same: src/audit/verify.rs looks for the entry that says so.
create function keep_audit_chain() returns trigger language plpgsql as $$
begin
    -- The end moves on, or stays what it is; the beginning moves on to an entry that is there.
    if tg_op = 'UPDATE' then
        if (new.position > old.position or (new.position, new.hash) = (old.position, old.hash))
            and ((new.dropped_position, new.dropped_hash) = (old.dropped_position, old.dropped_hash)
                or new.dropped_position > old.dropped_position and new.dropped_position <= new.position
                and exists (select from audit where position = new.dropped_position and hash = new.dropped_hash))
        then
            return new;
        end if;
    end if;
    raise exception 'the ends of the audit only move on' using errcode = 'insufficient_privilege';
end $$;
create trigger audit_chain_kept before update or delete on audit_chain for each row execute function keep_audit_chain();
create trigger audit_chain_not_truncated before truncate on audit_chain for each statement execute function keep_audit_chain();

-- They mean these tables, and not others of the same names: temporary ones come first unless they are named.
do $$
declare
    kept text;
begin
    foreach kept in array array['keep_audit', 'keep_audit_chain'] loop
        execute format('alter function %I() set search_path = %I, pg_temp', kept, current_schema());
    end loop;
end $$;
