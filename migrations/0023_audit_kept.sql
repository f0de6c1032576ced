-- Whoever may write to the tables could move the beginning of the chain and then delete what is sealed, as the trigger trusts it. Now its
-- ends only move on, the beginning only to an entry that is there, and an entry gets no place beyond the end. What is deleted that way is
-- found all the same: src/audit/verify.rs looks for the entry that says so.
create or replace function keep_audit() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        if old.position is null and new.position is not null
            and (new.id, new.at, new.actor, new.key_id, new.request_id, new.action, new.outcome, new.galleries, new.subjects,
                new.model_id, new.details)
            is not distinct from (old.id, old.at, old.actor, old.key_id, old.request_id, old.action, old.outcome, old.galleries,
                old.subjects, old.model_id, old.details)
            and exists (select from audit_chain where new.position > dropped_position and new.position <= position)
        then
            return new;
        end if;
    elsif tg_op = 'DELETE' then
        if old.position <= (select dropped_position from audit_chain) then
            return old;
        end if;
    end if;
    raise exception 'the audit is only added to' using errcode = 'insufficient_privilege';
end $$;

create function keep_audit_chain() returns trigger language plpgsql as $$
begin
    -- The end moves on, or stays what it is; the beginning moves on to an entry that is there.
    if tg_op = 'UPDATE' then
        if (new.position > old.position or (new.position, new.hash) = (old.position, old.hash))
            and ((new.dropped_position, new.dropped_hash) = (old.dropped_position, old.dropped_hash)
                or new.dropped_position > old.dropped_position and new.dropped_position <= new.position
                and exists (select from audit where position = new.dropped_position and hash = new.dropped_hash))
        then
            return new;
        end if;
    end if;
    raise exception 'the ends of the audit only move on' using errcode = 'insufficient_privilege';
end $$;
create trigger audit_chain_kept before update or delete on audit_chain for each row execute function keep_audit_chain();
create trigger audit_chain_not_truncated before truncate on audit_chain for each statement execute function keep_audit_chain();

-- They mean these tables, and not others of the same names: temporary ones come first unless they are named.
do $$
declare
    kept text;
begin
    foreach kept in array array['keep_audit', 'keep_audit_chain'] loop
        execute format('alter function %I() set search_path = %I, pg_temp', kept, current_schema());
    end loop;
end $$;
