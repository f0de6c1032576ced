-- The galleries that a job concerns: who may see all of them sees the job. Null: it concerns all that there are, or what they
-- share.
alter table jobs
    add column galleries uuid[],
    add constraint job_galleries_some check (cardinality(galleries) > 0);

-- Of earlier jobs the settings say it.
update jobs set galleries = array[(settings ->> 'gallery')::uuid]
    where kind in ('erase', 'merge', 'import') and settings ->> 'gallery' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';

-- A training, and a comparison, look at protected galleries as well. Where these were chosen by lot there were more.
update jobs set galleries = array(
        select (looked_at ->> 'id')::uuid
        from jsonb_array_elements(jsonb_build_array(settings -> 'gallery') || (settings -> 'protected')) as looked_at
    )
    where kind in ('retrain', 'evaluate') and jsonb_typeof(settings -> 'protected') = 'array'
    and settings -> 'gallery' ->> 'id' is not null and not coalesce((settings ->> 'by_lot')::boolean, false);
