-- What the log of changes can be relied upon for; see src/gallery/changes.rs. One row.
create table change_log (
    one boolean constraint change_log_pkey primary key default true,
    -- Changes of transactions below this may have been deleted: who has not seen all of them must start over.
    pruned_to xid8 not null,
    -- The cluster and database whose transaction ids are stored, here and in `changes`, `review_queue` and `reviewed`. In
    -- another one, into which a dump was restored, they mean nothing. Empty: nobody has looked yet.
    cluster text not null,
    -- How often stored transaction ids were set anew because they meant nothing.
    resets bigint not null default 0,
    constraint change_log_one check (one)
);
insert into change_log (pruned_to, cluster) values (pg_snapshot_xmin(pg_current_snapshot()), '');

-- One row, written by the first who asks. PostgreSQL empties a table that is not logged when it recovers from a crash and when
-- a standby takes over: just when it may give transaction ids again that it gave before.
create unlogged table change_run (
    one boolean constraint change_run_pkey primary key default true,
    id uuid not null default gen_random_uuid(),
    constraint change_run_one check (one)
);

-- Who holds templates in memory, and what they have seen: whoever erases waits until it has reached all of them.
create table readers (
    id uuid constraint reader_pkey primary key,
    seen_at timestamptz not null,
    -- Seconds after `seen_at` for which the reader may still answer from its memory without having read anything further.
    answers_for double precision not null,
    -- All that is visible in it is in the reader's memory.
    snapshot pg_snapshot not null
);
