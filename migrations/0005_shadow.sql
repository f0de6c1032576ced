-- A candidate in the shadow embeds a share of live probes as well, so that what it would answer can be compared with what
-- was answered. All enrolled faces are embedded by it, so it is the target meanwhile.
alter table models
    -- Of the probes, 0 to 1; null: it is not in the shadow.
    add column shadow_share double precision,
    add constraint model_shadow_is_target check (shadow_share is null or is_target),
    add constraint model_shadow_share_known check (shadow_share > 0 and shadow_share <= 1);

-- Probes that two models were asked about, by what came of it; see src/registry/shadow.rs.
create table shadow_tallies (
    model_id uuid not null constraint shadow_tally_model_fkey references models (id) on delete cascade,
    -- The model that was active.
    against_id uuid not null constraint shadow_tally_against_fkey references models (id) on delete cascade,
    agreed bigint not null default 0,
    other_subject bigint not null default 0,
    only_active bigint not null default 0,
    only_candidate bigint not null default 0,
    since timestamptz not null default now(),
    last_at timestamptz not null default now(),
    constraint shadow_tally_pkey primary key (model_id, against_id)
);

-- The latest probes about which the two differed. Of the probe itself nothing is kept. Who is erased leaves none of it behind.
create table shadow_disagreements (
    id uuid constraint shadow_disagreement_pkey primary key,
    model_id uuid not null constraint shadow_disagreement_model_fkey references models (id) on delete cascade,
    against_id uuid not null constraint shadow_disagreement_against_fkey references models (id) on delete cascade,
    gallery_id uuid not null constraint shadow_disagreement_gallery_fkey references galleries (id) on delete cascade,
    kind text not null,
    -- Whom the probe resembled most, how much, and how much it takes to be known; by the active model and by the candidate.
    active_subject_id uuid constraint shadow_disagreement_active_fkey references subjects (id) on delete cascade,
    active_similarity real,
    active_threshold real not null,
    candidate_subject_id uuid constraint shadow_disagreement_candidate_fkey references subjects (id) on delete cascade,
    candidate_similarity real,
    candidate_threshold real not null,
    at timestamptz not null default now(),
    constraint shadow_disagreement_kind_known check (kind in ('other_subject', 'only_active', 'only_candidate'))
);
create index shadow_disagreement_idx on shadow_disagreements (model_id, id);
create index shadow_disagreement_gallery_idx on shadow_disagreements (gallery_id);
create index shadow_disagreement_active_idx on shadow_disagreements (active_subject_id);
create index shadow_disagreement_candidate_idx on shadow_disagreements (candidate_subject_id);
