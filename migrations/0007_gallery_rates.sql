-- How often strangers are taken for somebody of a gallery, measured in the background on its own faces: see
-- src/service/thresholds/measure.rs.
create table gallery_rates (
    model_id uuid not null constraint gallery_rate_model_fkey references models (id),
    gallery_id uuid not null constraint gallery_rate_gallery_fkey references galleries (id) on delete cascade,
    -- Subjects of the gallery then, and faces that played the stranger.
    subjects bigint not null,
    probes bigint not null,
    -- Share of the subjects who seem to be enrolled twice.
    twice double precision not null,
    -- False match rates of one comparison, with thresholds and their intervals; null: there was too little to tell.
    curve jsonb,
    measured_at timestamptz not null,
    constraint gallery_rate_pkey primary key (model_id, gallery_id)
);
create index gallery_rate_time_idx on gallery_rates (measured_at);
