-- What was answered to requests that named a key, so that one that is sent again is not carried out again. Written by the
-- transaction that does what was asked for.
create table request_keys (
    key text primary key constraint request_key_length check (char_length(key) between 1 and 255),
    -- SHA-256 of the route and of the fields.
    fingerprint bytea not null constraint request_fingerprint_length check (octet_length(fingerprint) = 32),
    -- Null once somebody whom it names was erased.
    answer jsonb,
    -- Whom the answer names.
    subjects uuid[] not null,
    kept_at timestamptz not null default now()
);

create index request_keys_by_age on request_keys (kept_at);
create index request_keys_by_subject on request_keys using gin (subjects);

-- What was answered goes with whomever it names, as soon as they are hidden. Answers are held in one order, so that two erasures
-- do not wait for each other.
create function forget_answers(erased uuid[]) returns void language plpgsql as $$
begin
    if cardinality(erased) = 0 then
        return;
    end if;
    perform from request_keys where subjects && erased order by key for update;
    update request_keys set answer = null, subjects = '{}' where subjects && erased;
end $$;

create function forget_answers_about_hidden() returns trigger language plpgsql as $$
begin
    perform forget_answers(array(
        select now_there.id from now_there join before on before.id = now_there.id
        where now_there.erased_at is not null and before.erased_at is null
    ));
    return null;
end $$;

create function forget_answers_about_deleted() returns trigger language plpgsql as $$
begin
    perform forget_answers(array(select id from deleted));
    return null;
end $$;

create trigger subjects_hidden_forget_answers after update on subjects
    referencing old table as before new table as now_there for each statement execute function forget_answers_about_hidden();
create trigger subjects_deleted_forget_answers after delete on subjects
    referencing old table as deleted for each statement execute function forget_answers_about_deleted();
