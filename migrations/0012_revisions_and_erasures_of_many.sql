-- The state of what a PATCH can change: `ETag` is made of it, and `If-Match` is held against it. What was there before has none
-- until it is changed, and goes by its id, so that no table is rewritten. See src/gallery/revision.rs.
alter table galleries add column revision uuid;
alter table galleries alter column revision set default gen_random_uuid();
alter table subjects add column revision uuid;
alter table subjects alter column revision set default gen_random_uuid();

create function revise() returns trigger language plpgsql as $$
begin
    new.revision = gen_random_uuid();
    return new;
end $$;
create trigger gallery_revised before update of name, policy on galleries
    for each row when ((old.name, old.policy) is distinct from (new.name, new.policy)) execute function revise();
create trigger subject_revised before update of name, metadata on subjects
    for each row when ((old.name, old.metadata) is distinct from (new.name, new.metadata)) execute function revise();

-- Many subjects that were marked together, so that one job erases them. See src/gallery/erasure/many.rs.
alter table subjects add column erased_with uuid;
create index subject_erased_with_idx on subjects (erased_with, id) where erased_with is not null;
