-- A key belongs to whoever sent it: two callers may use the same one, and neither gets the other's answer. A caller is the id of a
-- key of the database, or what let them in without one.
alter table request_keys add column caller text not null default 'client key';
alter table request_keys alter column caller drop default;
alter table request_keys drop constraint request_keys_pkey;
alter table request_keys add constraint request_keys_pkey primary key (caller, key);

-- Nobody knows who sent those that are there. Each of the callers that there were gets the answer once more, as until now.
insert into request_keys (caller, key, fingerprint, answer, subjects, kept_at)
    select other, key, fingerprint, answer, subjects, kept_at from request_keys
    cross join unnest(array['admin key', 'anyone']) as others (other);

create or replace function forget_answers(erased uuid[]) returns void language plpgsql as $$
begin
    if cardinality(erased) = 0 then
        return;
    end if;
    perform from request_keys where subjects && erased order by caller, key for update;
    update request_keys set answer = null, subjects = '{}' where subjects && erased;
end $$;
