-- Names are stored and compared in Unicode's normal form C, so that either spelling of an accent is the same name. A name that
-- clashes with another one's then stays as it is: its owner is found by id. Of several that become one, the oldest gets it.
with other as (
    select id, normalize(name, nfc) as name, row_number() over (partition by normalize(name, nfc) order by id) as place
    from galleries where erased_at is null and name is not nfc normalized
)
update galleries g set name = o.name from other o
    where g.id = o.id and o.place = 1 and char_length(o.name) between 1 and 255
    and not exists (select from galleries taken where taken.name = o.name and taken.erased_at is null);

with other as (
    select id, gallery_id, normalize(name, nfc) as name,
        row_number() over (partition by gallery_id, normalize(name, nfc) order by id) as place
    from subjects where erased_at is null and name is not nfc normalized
)
update subjects s set name = o.name from other o
    where s.id = o.id and o.place = 1 and char_length(o.name) between 1 and 255
    and not exists (
        select from subjects taken
        where taken.gallery_id = o.gallery_id and taken.name = o.name and taken.erased_at is null
    );
