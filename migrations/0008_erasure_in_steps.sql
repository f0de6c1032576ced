-- Erasing takes as long as there is something to erase. A mark hides a gallery or a subject from everybody at once, and its name
-- is free from then on; a job deletes the rows in pieces. See src/gallery/erasure.rs.
alter table galleries add column erased_at timestamptz;
alter table galleries drop constraint gallery_name_key;
create unique index gallery_name_key on galleries (name) where erased_at is null;

alter table subjects add column erased_at timestamptz;
-- To whom its faces go, if they are not erased.
alter table subjects add column merged_into uuid;
create index subject_erased_idx on subjects (id) where erased_at is not null;

-- Faces that nobody erases: what every query of faces reads. The list of marked subjects is short.
create view present_faces as select * from faces f
    where not exists (select from subjects s where s.id = f.subject_id and s.erased_at is not null)
    and not exists (select from galleries g where g.id = f.gallery_id and g.erased_at is not null);

-- In the order in which pieces are taken, so that none looks again at what those before it deleted.
create index template_model_idx on templates (model_id, gallery_id, subject_id);
drop index template_search_idx;

-- Nobody needs to hear of templates of a gallery that is erased as a whole, or of a model that is retired.
create or replace function note_template_change() returns trigger language plpgsql as $$
begin
    insert into changes (gallery_id, subject_id)
        select distinct c.gallery_id, c.subject_id from changed c
        where exists (select from galleries g where g.id = c.gallery_id and g.erased_at is null)
        and exists (select from models m where m.id = c.model_id and m.state <> 'retired');
    if tg_op <> 'DELETE' then
        insert into review_queue (model_id, gallery_id, subject_id, changed)
            select model_id, gallery_id, subject_id, true from changed
            -- In one order for all who write here, so that none waits for good.
            order by subject_id
            on conflict on constraint review_queue_pkey do update
                set changed = true, ticket = default, transaction = default;
    end if;
    return null;
end $$;

-- Computes templates anew: of each subject at the same place as its model. Those of erased subjects are gone for good. A
-- session keeps the plans of its first change, be it one face or a batch of an import, and tables may have grown a
-- thousandfold since: so each subject is looked up by index.
create function compute_templates(models uuid[], of_subjects uuid[]) returns void language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    -- One at a time for each subject, so that none misses what another adds; in one order, so that none waits for
    -- good. The statements below see what was committed until here.
    perform from subjects where id = any(of_subjects) order by id for no key update;
    insert into templates (model_id, gallery_id, subject_id, embedding, faces, face_id)
        select e.model_id, e.gallery_id, e.subject_id,
            case when count(*) = 1 then (array_agg(e.embedding))[1] else l2_normalize(avg(e.embedding)) end,
            count(*), case when count(*) = 1 then (array_agg(e.face_id))[1] end
        from (select distinct model_id, subject_id from unnest(models, of_subjects) as c (model_id, subject_id)) c
        join subjects s on s.id = c.subject_id and s.erased_at is null
        join embeddings e on e.gallery_id = s.gallery_id and e.subject_id = c.subject_id and e.model_id = c.model_id
        group by e.model_id, e.gallery_id, e.subject_id
        on conflict on constraint template_pkey do update
            set embedding = excluded.embedding, faces = excluded.faces, face_id = excluded.face_id;
    delete from templates t using unnest(models, of_subjects) as c (model_id, subject_id)
        where t.model_id = c.model_id and t.subject_id = c.subject_id and not exists (
            select from embeddings e join subjects s on s.id = e.subject_id
            where e.gallery_id = t.gallery_id and e.subject_id = t.subject_id and e.model_id = t.model_id
            and s.erased_at is null
        );
end $$;

-- Whoever changes many embeddings of a subject one after the other sets `faceid.computes_templates` for the transaction, and
-- calls `compute_templates` at its end.
create or replace function refresh_templates() returns trigger language plpgsql as $$
begin
    if coalesce(current_setting('faceid.computes_templates', true), '') = '' then
        perform compute_templates(array_agg(model_id), array_agg(subject_id))
            from (select distinct model_id, subject_id from changed) c;
    end if;
    return null;
end $$;

-- Jobs of the lane that erases run side by side, and take turns in steps.
drop index job_one_running;
create unique index job_one_running on jobs (lane) where state = 'running' and lane <> 'erasure';

-- What cannot be worked on, set aside so that it stops nothing else: see src/gallery/quarantine.rs.
create table quarantine (
    id uuid constraint quarantine_pkey primary key,
    -- The kind of job that failed at it.
    work text not null,
    model_id uuid not null constraint quarantine_model_fkey references models (id) on delete cascade,
    gallery_id uuid not null constraint quarantine_gallery_fkey references galleries (id) on delete cascade,
    -- Null: it is about the gallery.
    subject_id uuid constraint quarantine_subject_fkey references subjects (id) on delete cascade,
    -- Null: it is about the subject.
    face_id uuid constraint quarantine_face_fkey references faces (id) on delete cascade,
    reason text not null,
    at timestamptz not null default now(),
    constraint quarantine_work_known check (work in ('embed', 'review', 'measure', 'index'))
);
create unique index quarantine_item_key on quarantine (work, model_id, coalesce(face_id, subject_id, gallery_id));
create index quarantine_gallery_idx on quarantine (gallery_id);
create index quarantine_subject_idx on quarantine (subject_id);
create index quarantine_face_idx on quarantine (face_id);

-- Faces that have a chip but no embedding of a model, of all models, but for those that cannot be embedded.
create view faces_to_embed as select f.id, f.subject_id, m.id as model_id from present_faces f cross join models m
    where f.chip is not null
    and not exists (select from embeddings e where e.face_id = f.id and e.model_id = m.id)
    and not exists (select from quarantine q where q.face_id = f.id and q.model_id = m.id and q.work = 'embed');
