-- What an imported face may lack: it can come as an embedding alone.
alter table faces
    alter column chip drop not null,
    alter column image_sha256 drop not null,
    alter column bounding_box drop not null,
    alter column landmarks drop not null,
    alter column detection_score drop not null,
    alter column quality drop not null;
-- Finds an image that was enrolled before.
create index face_image_idx on faces (gallery_id, image_sha256);

-- A gallery's own policy for calling a face known; null: the server's.
alter table galleries add column policy jsonb;

-- Length of what the network gave, before it was scaled to 1; null where only the unit vector is known.
alter table embeddings add column norm real;
alter table embeddings drop constraint embedding_face_fkey;
-- A face that moves to another subject takes its embeddings along.
alter table embeddings add constraint embedding_face_fkey foreign key (gallery_id, subject_id, face_id)
    references faces (gallery_id, subject_id, id) on update cascade on delete cascade;
drop index embedding_search_idx;
create index embedding_subject_idx on embeddings (gallery_id, subject_id, model_id);

-- What a subject is matched by: the unit vector along the mean of its faces' embeddings, one for each model. Kept
-- true by triggers, however embeddings come and go.
create table templates (
    model_id uuid not null constraint template_model_fkey references models (id),
    gallery_id uuid not null,
    subject_id uuid not null,
    embedding halfvec not null,
    faces integer not null,
    -- The only face; null where there are several.
    face_id uuid,
    constraint template_pkey primary key (subject_id, model_id),
    constraint template_subject_fkey foreign key (gallery_id, subject_id)
        references subjects (gallery_id, id) on delete cascade
);
create index template_search_idx on templates (model_id, gallery_id);
-- An exact search reads every row, so none may move its vector to a side table.
alter table templates alter column embedding set storage plain;

-- Which subjects and galleries changed, for servers that hold templates in memory. A row says that something
-- changed, never what: whoever reads it reads the subject anew. Without a subject it is about the gallery itself.
-- Numbers are given before transactions end, so the transaction decides what a reader has seen: all of those below
-- the oldest that is still running.
create table changes (
    sequence bigint generated always as identity constraint change_pkey primary key,
    transaction xid8 not null default pg_current_xact_id(),
    gallery_id uuid not null,
    subject_id uuid,
    changed_at timestamptz not null default now()
);
create index change_transaction_idx on changes (transaction, sequence);

-- Templates that a review has yet to look at; see src/gallery/review.rs.
create table review_queue (
    model_id uuid not null,
    gallery_id uuid not null,
    subject_id uuid not null,
    -- Whether the template changed, or only another one near to it did.
    changed boolean not null,
    -- Grows with each change, so that a review takes away no change that came while it looked.
    ticket bigint generated always as identity,
    -- That made the change.
    transaction xid8 not null default pg_current_xact_id(),
    constraint review_queue_pkey primary key (model_id, subject_id),
    constraint review_queue_template_fkey foreign key (subject_id, model_id)
        references templates (subject_id, model_id) on delete cascade
);
create index review_queue_gallery_idx on review_queue (model_id, gallery_id, subject_id);

-- Templates that a review has looked at, compared with all others as every transaction below `seen` had left them. So only
-- what later ones change can be news to them.
create table reviewed (
    model_id uuid not null,
    gallery_id uuid not null,
    subject_id uuid not null,
    seen xid8 not null,
    constraint reviewed_pkey primary key (model_id, subject_id),
    constraint reviewed_template_fkey foreign key (subject_id, model_id)
        references templates (subject_id, model_id) on delete cascade
);
create index reviewed_seen_idx on reviewed (model_id, gallery_id, seen);

create function note_template_change() returns trigger language plpgsql as $$
begin
    insert into changes (gallery_id, subject_id) select distinct gallery_id, subject_id from changed;
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
create trigger template_inserted after insert on templates
    referencing new table as changed for each statement execute function note_template_change();
create trigger template_updated after update on templates
    referencing new table as changed for each statement execute function note_template_change();
create trigger template_deleted after delete on templates
    referencing old table as changed for each statement execute function note_template_change();

create function note_subject_change() returns trigger language plpgsql as $$
begin
    insert into changes (gallery_id, subject_id) values (new.gallery_id, new.id);
    return null;
end $$;
create trigger subject_renamed after update of name on subjects
    for each row when (old.name is distinct from new.name) execute function note_subject_change();

create function note_gallery_change() returns trigger language plpgsql as $$
begin
    insert into changes (gallery_id) values (coalesce(new.id, old.id));
    return null;
end $$;
create trigger gallery_changed after insert or update or delete on galleries
    for each row execute function note_gallery_change();

-- Computes the templates of the subjects in `changed` anew. A session keeps the plans of its first change, be it one
-- face or a batch of an import, and tables may have grown a thousandfold since: so each subject is looked up by index.
create function refresh_templates() returns trigger language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    -- One at a time for each subject, so that none misses what another adds; in one order, so that none waits for
    -- good. The statements below see what was committed until here.
    perform from subjects where id in (select subject_id from changed) order by id for no key update;
    insert into templates (model_id, gallery_id, subject_id, embedding, faces, face_id)
        select e.model_id, e.gallery_id, e.subject_id,
            case when count(*) = 1 then (array_agg(e.embedding))[1] else l2_normalize(avg(e.embedding)) end,
            count(*), case when count(*) = 1 then (array_agg(e.face_id))[1] end
        from (select distinct model_id, gallery_id, subject_id from changed) c
        join embeddings e using (model_id, gallery_id, subject_id)
        group by e.model_id, e.gallery_id, e.subject_id
        on conflict on constraint template_pkey do update
            set embedding = excluded.embedding, faces = excluded.faces, face_id = excluded.face_id;
    delete from templates t using (select distinct model_id, gallery_id, subject_id from changed) c
        where t.model_id = c.model_id and t.subject_id = c.subject_id and not exists (
            select from embeddings e
            where e.gallery_id = c.gallery_id and e.subject_id = c.subject_id and e.model_id = c.model_id
        );
    return null;
end $$;
create trigger embedding_inserted after insert on embeddings
    referencing new table as changed for each statement execute function refresh_templates();
create trigger embedding_deleted after delete on embeddings
    referencing old table as changed for each statement execute function refresh_templates();
-- Two triggers, since a move changes both subjects.
create trigger embedding_moved_away after update on embeddings
    referencing old table as changed for each statement execute function refresh_templates();
create trigger embedding_moved_here after update on embeddings
    referencing new table as changed for each statement execute function refresh_templates();

insert into templates (model_id, gallery_id, subject_id, embedding, faces, face_id)
    select model_id, gallery_id, subject_id,
        case when count(*) = 1 then (array_agg(embedding))[1] else l2_normalize(avg(embedding)) end,
        count(*), case when count(*) = 1 then (array_agg(face_id))[1] end
    from embeddings group by model_id, gallery_id, subject_id;

-- What a review of a gallery found: subjects that look like one person, and faces and subjects that look wrong.
create table findings (
    id uuid constraint finding_pkey primary key,
    model_id uuid not null constraint finding_model_fkey references models (id),
    gallery_id uuid not null,
    kind text not null,
    subject_id uuid not null,
    -- Of `mislabelled` and `not_a_face`.
    face_id uuid constraint finding_face_fkey references faces (id) on delete cascade,
    -- Of `duplicate` and `mislabelled`.
    other_id uuid constraint finding_other_fkey references subjects (id) on delete cascade,
    -- Findings of a kind are ranked by it, highest first.
    score real not null,
    evidence jsonb not null default '{}',
    found_at timestamptz not null default now(),
    constraint finding_subject_fkey foreign key (gallery_id, subject_id)
        references subjects (gallery_id, id) on delete cascade,
    constraint finding_kind_known check (kind in ('duplicate', 'mislabelled', 'two_people', 'not_a_face'))
);
create index finding_rank_idx on findings (gallery_id, model_id, score desc, id);
create index finding_subject_idx on findings (subject_id);
create index finding_face_idx on findings (face_id);
create index finding_other_idx on findings (other_id);

-- HNSW indexes on the templates of large galleries, and how far to search them: measured, see
-- src/gallery/approximate.rs.
create table search_indexes (
    model_id uuid not null constraint search_index_model_fkey references models (id),
    gallery_id uuid not null constraint search_index_gallery_fkey references galleries (id) on delete cascade,
    -- Of the index in the schema.
    name text not null,
    ef_search integer not null,
    -- Share of probes whose best match was the one of an exact search.
    recall real not null,
    templates bigint not null,
    measured_at timestamptz not null default now(),
    constraint search_index_pkey primary key (model_id, gallery_id)
);
