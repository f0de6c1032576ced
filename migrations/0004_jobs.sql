-- Long tasks, which servers work off. A server that works on one holds it by a lease, which it must renew: what it writes
-- counts only while the lease is its own, and a job whose lease ran out is taken over by another server.
create table jobs (
    id uuid constraint job_pkey primary key,
    kind text not null,
    -- Of the jobs of one lane, one runs at a time.
    lane text not null,
    -- Two jobs of one kind and key are the same job, while it is not finished.
    key text not null,
    settings jsonb not null,
    state text not null default 'queued',
    -- How far it is, for people: the last event of that kind.
    progress jsonb,
    result jsonb,
    error text,
    requested_by text not null,
    cancel_requested boolean not null default false,
    -- How often a server began or went on with it.
    attempts integer not null default 0,
    -- Attempts in a row that ended badly and got nowhere.
    setbacks integer not null default 0,
    -- After a setback it waits.
    not_before timestamptz not null default now(),
    -- A new one for each attempt.
    lease uuid,
    lease_until timestamptz,
    heartbeat_at timestamptz,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    constraint job_state_known check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint job_running_is_leased check ((state = 'running') = (lease is not null and lease_until is not null))
);
create unique index job_unfinished_key on jobs (kind, key) where state in ('queued', 'running');
create unique index job_one_running on jobs (lane) where state = 'running';
create index job_queue_idx on jobs (lane, id) where state = 'queued';

-- What happened to a job, for whoever follows it. Rows are added while the job's row is locked, so that a reader who has
-- seen a number has seen all lower ones of that job.
create table job_events (
    sequence bigint generated always as identity constraint job_event_pkey primary key,
    job_id uuid not null constraint job_event_job_fkey references jobs (id) on delete cascade,
    kind text not null,
    data jsonb not null,
    at timestamptz not null default now()
);
create index job_event_idx on job_events (job_id, sequence);

-- What an attempt leaves for the next one, which may be another server's. Deleted when the job is finished.
create table job_files (
    job_id uuid not null constraint job_file_job_fkey references jobs (id) on delete cascade,
    name text not null,
    content bytea not null,
    saved_at timestamptz not null default now(),
    constraint job_file_pkey primary key (job_id, name)
);
-- Weights do not compress.
alter table job_files alter column content set storage external;
