-- What was erased, for whoever has to prove it: ids and numbers, never a name. `bytes_gone_at` is when the bytes of embeddings and
-- templates, and the keys of chips, were gone from the files of this database, not only the rows. See src/gallery/erasure/receipts.rs.
create table erasures (
    id uuid constraint erasure_pkey primary key,
    erased_at timestamptz not null default now(),
    -- Ids of what is gone, so that nothing refers to it.
    gallery_id uuid not null,
    -- Null: all there were in the gallery, which went as a whole.
    subjects uuid[],
    -- Faces that were erased by themselves; their subjects stayed.
    faces uuid[],
    -- When the first of it had been enrolled: who trained on the gallery since may have had it.
    since timestamptz not null,
    subjects_erased bigint not null default 0,
    faces_erased bigint not null default 0,
    embeddings_erased bigint not null default 0,
    -- By what a job finds it: the gallery, the subject, or what was marked together. Null: there is no job, or it is done.
    mark uuid constraint erasure_mark_key unique,
    rows_gone_at timestamptz,
    bytes_gone_at timestamptz,
    -- Where this server cannot reach them, as found at that time.
    elsewhere text[] not null default '{}'
);
-- Those of which bytes are left.
create index erasure_left_idx on erasures (rows_gone_at) where bytes_gone_at is null;
create index erasure_gallery_idx on erasures (gallery_id, id);

-- When the tables were last written anew, and how long that took. One row.
create table reclaims (
    one boolean constraint reclaim_pkey primary key default true,
    finished_at timestamptz,
    seconds double precision,
    -- Whether the files may hold chips of before these were encrypted.
    plain_chips boolean not null,
    constraint reclaim_one check (one)
);
insert into reclaims (plain_chips) select exists (select from faces where chip is not null);

-- PostgreSQL keeps samples of the values of columns, which an erasure would not reach.
alter table embeddings alter column embedding set statistics 0;
alter table templates alter column embedding set statistics 0;
alter table chip_keys alter column key set statistics 0;
alter table faces alter column chip set statistics 0;
