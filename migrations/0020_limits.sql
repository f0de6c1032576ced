-- What a key may have, where that differs from what servers say: as src/limits/said.rs writes it. See docs/limits.md.
alter table keys add column limits jsonb;

-- How many subjects a gallery may have; null: any number. Kept by src/gallery/quota.rs, within whatever creates subjects.
alter table galleries add column max_subjects bigint constraint gallery_max_subjects_some check (max_subjects > 0);

drop trigger gallery_revised on galleries;
create trigger gallery_revised before update of name, policy, max_subjects on galleries
    for each row when (
        (old.name, old.policy, old.max_subjects) is distinct from (new.name, new.policy, new.max_subjects)
    ) execute function revise();
