-- The key by which the chip of a face is encrypted: see src/sealing/ and src/gallery/chip_keys.rs. A table of its own, and a small
-- one: whoever deletes a key and rewrites this table leaves nothing that could read what the disk still holds of the chip. A face
-- with a chip and without a row here has a plain one, of before; a job encrypts those.
create table chip_keys (
    face_id uuid constraint chip_key_pkey primary key
        constraint chip_key_face_fkey references faces (id) on delete cascade,
    key bytea not null,
    -- The master key that wraps it; null: none does.
    master_id bytea,
    -- Of the chip itself, by which copies of one photo are told where the photo is not known.
    chip_sha256 bytea not null,
    constraint chip_key_master_id_length check (octet_length(master_id) = 8),
    constraint chip_key_sha256_length check (octet_length(chip_sha256) = 32)
);
-- What is to be wrapped anew, in the order in which it is; and how many there are of each master key.
create index chip_key_master_idx on chip_keys (master_id, face_id);

-- Chips that cannot be read, or whose keys cannot be wrapped anew, are set aside as well.
alter table quarantine drop constraint quarantine_work_known;
alter table quarantine add constraint quarantine_work_known check (work in ('embed', 'review', 'measure', 'index', 'chips'));
