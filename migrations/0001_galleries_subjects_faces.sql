-- Names of constraints are part of the code: see on_constraint in src/db/error.rs.
create extension if not exists vector;

create table galleries (
    id uuid constraint gallery_pkey primary key,
    name text collate "C" not null constraint gallery_name_key unique,
    created_at timestamptz not null default now(),
    constraint gallery_name_length check (char_length(name) between 1 and 255)
);

-- Always exists; src/gallery/galleries.rs knows its id and refuses to rename or erase it.
insert into galleries (id, name) values ('00000000-0000-7000-8000-000000000000', 'default');

create table subjects (
    id uuid constraint subject_pkey primary key,
    gallery_id uuid not null constraint subject_gallery_fkey references galleries (id) on delete cascade,
    name text collate "C" not null,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint subject_name_key unique (gallery_id, name),
    -- Pages through a gallery, and lets faces refer to subject and gallery as one.
    constraint subject_gallery_id_key unique (gallery_id, id),
    constraint subject_name_length check (char_length(name) between 1 and 255),
    constraint subject_metadata_object check (jsonb_typeof(metadata) = 'object')
);

create table faces (
    id uuid constraint face_pkey primary key,
    gallery_id uuid not null,
    subject_id uuid not null,
    chip bytea not null,
    image_sha256 bytea not null,
    bounding_box jsonb not null,
    landmarks jsonb not null,
    detection_score real not null,
    quality jsonb not null,
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint face_subject_fkey foreign key (gallery_id, subject_id)
        references subjects (gallery_id, id) on delete cascade,
    -- Pages through a subject, and lets embeddings refer to face, subject and gallery as one.
    constraint face_subject_id_key unique (gallery_id, subject_id, id),
    constraint face_image_sha256_length check (octet_length(image_sha256) = 32),
    constraint face_metadata_object check (jsonb_typeof(metadata) = 'object')
);
create index face_gallery_idx on faces (gallery_id, id);
-- A JPEG does not compress again.
alter table faces alter column chip set storage external;

create table models (
    id uuid constraint model_pkey primary key,
    name text not null,
    sha256 bytea not null constraint model_sha256_key unique,
    dimension integer not null,
    state text not null default 'candidate',
    created_at timestamptz not null default now(),
    activated_at timestamptz,
    constraint model_sha256_length check (octet_length(sha256) = 32),
    -- halfvec holds up to 4,000 dimensions in a row of a page.
    constraint model_dimension_range check (dimension between 1 and 4000),
    constraint model_state_known check (state in ('active', 'candidate', 'retired'))
);
create unique index model_one_active on models (state) where state = 'active';

-- One embedding of every face for each model. gallery_id and subject_id repeat the face's, so that a search
-- reads this table alone; the foreign key keeps them true.
create table embeddings (
    face_id uuid not null,
    model_id uuid not null constraint embedding_model_fkey references models (id),
    gallery_id uuid not null,
    subject_id uuid not null,
    embedding halfvec not null,
    constraint embedding_pkey primary key (face_id, model_id),
    constraint embedding_face_fkey foreign key (gallery_id, subject_id, face_id)
        references faces (gallery_id, subject_id, id) on delete cascade
);
create index embedding_search_idx on embeddings (model_id, gallery_id);
-- An exact search reads every row, so none may move its vector to a side table.
alter table embeddings alter column embedding set storage plain;
