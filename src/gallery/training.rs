//! What a training and its evaluation need of galleries: chips, by whom they show.
//!
//! A photo that was enrolled for a subject again tells nothing new, and counts once: the image that was sent decides, or the
//! chip where that image is not known.

use std::collections::HashMap;

use sqlx::FromRow;
use uuid::Uuid;

use super::chips::{ChipRow, ReadChips, open_all, photo, readable};
use super::{Galleries, Gallery, GalleryError};
use crate::types::{FaceId, GalleryId, SubjectId};

/// Galleries that are looked at for enough people, and faces of each.
const CANDIDATES: usize = 1000;
const LOOKED_AT: i64 = 2000;

/// What there is to train on in a gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainingStock {
    /// Subjects with chips of two photos or more.
    pub mated: u64,
    /// Faces that were imported without one.
    pub without_chip: u64,
    /// Faces of a photo that their subject has another face of.
    pub copies: u64,
}

/// Which photo a face is of: the sha256 of the image that was sent, or of the chip where that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhotoId([u8; 32]);

impl PhotoId {
    /// Of what the database says.
    pub(super) fn new(sha256: Vec<u8>) -> Result<Self, GalleryError> {
        let sha256 = sha256.try_into().map_err(|_| GalleryError::Inconsistent("a sha256 is not 32 bytes long"))?;
        Ok(Self(sha256))
    }
}

/// A face's chip, a JPEG.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredChip {
    pub face: FaceId,
    pub photo: PhotoId,
    pub jpeg: Vec<u8>,
}

/// A face that has a chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFace {
    pub gallery: GalleryId,
    pub subject: SubjectId,
    pub face: FaceId,
}

#[derive(FromRow)]
struct KnownFaceRow {
    gallery_id: Uuid,
    subject_id: Uuid,
    id: Uuid,
}

/// A chip as it is stored, with the photo that it is of.
#[derive(FromRow)]
struct PhotoRow {
    #[sqlx(flatten)]
    chip: ChipRow,
    photo: Vec<u8>,
}

impl From<KnownFaceRow> for KnownFace {
    fn from(row: KnownFaceRow) -> Self {
        Self { gallery: GalleryId(row.gallery_id), subject: SubjectId(row.subject_id), face: FaceId(row.id) }
    }
}

impl Galleries {
    pub async fn training_stock(&self, gallery: GalleryId) -> Result<TrainingStock, GalleryError> {
        let (mated, without_chip, copies): (i64, i64, i64) = sqlx::query_as(concat!(
            "select count(*) filter (where photos > 1), coalesce(sum(faces - chips), 0)::bigint, \
               coalesce(sum(chips - photos), 0)::bigint \
             from (select count(*) as faces, count(chip) as chips, \
               count(distinct ",
            photo!("f"),
            ") filter (where chip is not null) as photos \
               from present_faces f where gallery_id = $1 group by subject_id) s"
        ))
        .bind(gallery.0)
        .fetch_one(&self.pool.without_limits())
        .await?;
        Ok(TrainingStock {
            mated: mated.unsigned_abs(),
            without_chip: without_chip.unsigned_abs(),
            copies: copies.unsigned_abs(),
        })
    }

    /// Up to `most` galleries in which so many subjects have chips of two photos or more: the `largest` ones, as they were
    /// measured last, and others by a lot that is the same each time. Oldest first.
    ///
    /// However many galleries there are, and however large: it looks at some by lot, and at a bounded number of faces of each.
    pub async fn some_with_mated(
        &self,
        subjects: u32,
        largest: usize,
        most: usize,
    ) -> Result<Vec<Gallery>, GalleryError> {
        let sizes = "select gallery_id as id, -max(subjects) as lot from gallery_rates group by gallery_id \
                     order by lot, id limit $3";
        let mut found = self.with_mated_of(sizes, subjects, largest.min(most), 2 * largest).await?;
        let by_lot = "select id, md5(id::text) as lot from galleries where erased_at is null order by lot limit $3";
        for gallery in self.with_mated_of(by_lot, subjects, most, CANDIDATES).await? {
            if found.len() < most && !found.iter().any(|known| known.id == gallery.id) {
                found.push(gallery);
            }
        }
        found.sort_unstable_by_key(|gallery| gallery.id);
        Ok(found)
    }

    /// The first `most` of up to `candidates` galleries, which are an `id` and a `lot` to sort by.
    async fn with_mated_of(
        &self,
        candidates: &'static str,
        subjects: u32,
        most: usize,
        looked_at: usize,
    ) -> Result<Vec<Gallery>, GalleryError> {
        // Faces by subject, as their index has them: of those that are looked at, all but the last subject are whole.
        let query = format!(
            "select g.* from ({candidates}) c join lateral ( \
               select * from galleries where id = c.id and erased_at is null and ($5::uuid[] is null or id = any($5)) \
               and $1 <= (select count(*) from (select from ( \
                 select id, subject_id, image_sha256, chip from present_faces where gallery_id = c.id \
                 order by gallery_id, subject_id, id limit $4) f \
               where chip is not null group by subject_id \
               having count(distinct {photo}) > 1) s)) g on true \
             order by c.lot limit $2",
            photo = photo!("f"),
        );
        let galleries = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(i64::from(subjects))
            .bind(most as i64)
            .bind(looked_at as i64)
            .bind(LOOKED_AT)
            .bind(self.scope())
            .fetch_all(&self.pool.without_limits())
            .await?;
        Ok(galleries)
    }

    /// All faces of a gallery that have a chip, by subject and face; of those that show one subject on one photo the first.
    pub async fn faces_with_chip(&self, gallery: GalleryId) -> Result<Vec<KnownFace>, GalleryError> {
        let rows: Vec<KnownFaceRow> = sqlx::query_as(concat!(
            "select gallery_id, subject_id, id from (select distinct on (subject_id, photo) * from ( \
               select gallery_id, subject_id, id, ",
            photo!("f"),
            " as photo \
               from present_faces f where gallery_id = $1 and chip is not null) f order by subject_id, photo, id) d \
             order by subject_id, id"
        ))
        .bind(gallery.0)
        .fetch_all(&self.pool.without_limits())
        .await?;
        Ok(rows.into_iter().map(KnownFace::from).collect())
    }

    /// Faces of a gallery that have a chip, of up to `subjects` subjects with two photos or more, and up to `each` of everybody,
    /// one of a photo. Which ones does not change while nobody comes or goes.
    pub async fn sample_of_faces(
        &self,
        gallery: GalleryId,
        subjects: u32,
        each: u32,
    ) -> Result<Vec<KnownFace>, GalleryError> {
        let rows: Vec<KnownFaceRow> = sqlx::query_as(concat!(
            "with chosen as (select subject_id from present_faces f where gallery_id = $1 and chip is not null \
               group by subject_id having count(distinct ",
            photo!("f"),
            ") > 1 \
               order by md5(subject_id::text) limit $2), \
             distinct_photos as (select distinct on (subject_id, photo) * from ( \
               select f.gallery_id, f.subject_id, f.id, ",
            photo!("f"),
            " as photo \
               from present_faces f join chosen using (subject_id) \
               where f.gallery_id = $1 and f.chip is not null) p order by subject_id, photo, id) \
             select gallery_id, subject_id, id from (select *, \
               row_number() over (partition by subject_id order by id) as number from distinct_photos) numbered \
             where number <= $3 order by subject_id, id"
        ))
        .bind(gallery.0)
        .bind(i64::from(subjects))
        .bind(i64::from(each))
        .fetch_all(&self.pool.without_limits())
        .await?;
        Ok(rows.into_iter().map(KnownFace::from).collect())
    }

    /// The chips of some faces, in no order; those that are gone are missing, as are those that cannot be read, which are set
    /// aside.
    pub async fn chips_of(&self, faces: &[FaceId]) -> Result<Vec<StoredChip>, GalleryError> {
        let ids: Vec<Uuid> = faces.iter().map(|face| face.0).collect();
        let rows: Vec<PhotoRow> = sqlx::query_as(concat!(
            "select f.id, f.chip, k.key, k.master_id, ",
            photo!("f"),
            " as photo from present_faces f left join chip_keys k on k.face_id = f.id \
             where f.id = any($1) and f.chip is not null"
        ))
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let (mut photos, mut chips) = (HashMap::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for row in rows {
            photos.insert(FaceId(row.chip.id), PhotoId::new(row.photo)?);
            chips.push(row.chip);
        }
        let ReadChips { chips, unreadable } = readable(open_all(&self.keyring, chips).await?)?;
        self.set_chips_aside(&unreadable).await?;
        let stored = |(face, jpeg)| Some(StoredChip { face, photo: *photos.get(&face)?, jpeg });
        Ok(chips.into_iter().filter_map(stored).collect())
    }
}
