-- A merge is followed when the one who gets the faces is merged in turn.
create index subject_merged_idx on subjects (merged_into) where merged_into is not null;

-- Faces that no other model can embed, of which there are few as a rule: a promotion asks whether there are any.
create index face_without_chip_idx on faces (id) where chip is null;

-- Faces that stay: also those of a subject that is being merged into another one, which `present_faces` leaves out until they
-- have arrived there.
create view lasting_faces as select * from faces f
    where not exists (select from subjects s where s.id = f.subject_id and s.erased_at is not null and s.merged_into is null)
    and not exists (select from galleries g where g.id = f.gallery_id and g.erased_at is not null);

create or replace view faces_to_embed as select f.id, f.subject_id, m.id as model_id from lasting_faces f cross join models m
    where f.chip is not null
    and not exists (select from embeddings e where e.face_id = f.id and e.model_id = m.id)
    and not exists (select from quarantine q where q.face_id = f.id and q.model_id = m.id and q.work = 'embed');
