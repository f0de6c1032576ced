-- Until when somebody, or a face, is kept; null: until it is deleted. See src/gallery/retention.rs, whose sweep finds by these indexes
-- what is due, and nothing else.
alter table subjects add column expires_at timestamptz;
alter table faces add column expires_at timestamptz;
create index subject_expiry_idx on subjects (expires_at) where expires_at is not null and erased_at is null;
create index face_expiry_idx on faces (expires_at) where expires_at is not null;

-- How long a gallery keeps what is in it, from when on that holds, and what the sweep erased here.
alter table galleries
    add column retention jsonb,
    add column retention_from timestamptz,
    add column expired_subjects bigint not null default 0,
    add column expired_faces bigint not null default 0,
    add column expired_at timestamptz;

-- When a face was last enrolled for a subject, if that was after it was created.
alter table subjects add column enrolled_at timestamptz;
update subjects s set enrolled_at = f.latest
    from (select gallery_id, subject_id, max(created_at) as latest from faces group by gallery_id, subject_id) f
    where f.gallery_id = s.gallery_id and f.subject_id = s.id and f.latest > s.created_at + interval '1 hour';
create index subject_age_idx on subjects (gallery_id, coalesce(enrolled_at, created_at)) where erased_at is null;
create index face_age_idx on faces (gallery_id, created_at);

-- Whoever enrolls or moves faces holds their subjects already. A row is written at most once an hour, as retention counts in days. Of
-- the plans see compute_templates.
create function note_enrolments() returns trigger language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    update subjects s set enrolled_at = a.latest
        from (select subject_id, max(created_at) as latest from added group by subject_id) a
        where s.id = a.subject_id and a.latest > coalesce(s.enrolled_at, s.created_at) + interval '1 hour';
    return null;
end $$;
create trigger faces_enrolled after insert on faces
    referencing new table as added for each statement execute function note_enrolments();

create function note_move() returns trigger language plpgsql as $$
begin
    update subjects set enrolled_at = new.created_at
        where id = new.subject_id and new.created_at > coalesce(enrolled_at, created_at) + interval '1 hour';
    return null;
end $$;
create trigger face_moved after update of subject_id on faces
    for each row when (old.subject_id is distinct from new.subject_id) execute function note_move();

-- A face that has expired is there for nobody, even before the sweep erases it.
create or replace view present_faces as select * from faces f
    where not exists (select from subjects s where s.id = f.subject_id and s.erased_at is not null)
    and not exists (select from galleries g where g.id = f.gallery_id and g.erased_at is not null)
    and (f.expires_at is null or f.expires_at > now());

-- What a PATCH can change makes another state.
drop trigger gallery_revised on galleries;
create trigger gallery_revised before update of name, policy, max_subjects, retention on galleries
    for each row when (
        (old.name, old.policy, old.max_subjects, old.retention)
            is distinct from (new.name, new.policy, new.max_subjects, new.retention)
    ) execute function revise();
drop trigger subject_revised on subjects;
create trigger subject_revised before update of name, metadata, expires_at on subjects
    for each row when ((old.name, old.metadata, old.expires_at) is distinct from (new.name, new.metadata, new.expires_at))
    execute function revise();
