-- What is known of a model beside its weights; null of one that is known only by embeddings that were imported.
alter table models
    add column manifest jsonb,
    -- Of its file in the model store, which is named by the sha256; null: there is none.
    add column format text,
    add column file_bytes bigint,
    add column source text not null default 'embeddings',
    -- The model that it was trained from.
    add column parent_id uuid constraint model_parent_fkey references models (id) on delete set null,
    -- What the gate said of it; see src/registry/lifecycle.rs.
    add column verdict jsonb,
    -- Whether faces are being embedded by it so that it can become active.
    add column is_target boolean not null default false,
    add constraint model_format_known check (format in ('onnx', 'torchscript')),
    add constraint model_file_whole check ((format is null) = (file_bytes is null)),
    add constraint model_source_known check (source in ('embeddings', 'configured', 'import', 'retrain'));
create unique index model_one_target on models (is_target) where is_target;

-- A model that was active keeps its embeddings until it is retired.
alter table models drop constraint model_state_known;
update models set state = 'former' where state = 'retired';
alter table models add constraint model_state_known check (state in ('active', 'candidate', 'former', 'retired'));

-- Who changed what about models and the like. Only ever added to.
create table audit (
    id uuid constraint audit_pkey primary key,
    at timestamptz not null default now(),
    -- By what they were let in: a kind of key, or a command on the database.
    actor text not null,
    action text not null,
    model_id uuid constraint audit_model_fkey references models (id) on delete set null,
    details jsonb not null default '{}'
);
