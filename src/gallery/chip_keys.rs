//! The keys of chips as a whole: which master keys wrap them, wrapping them anew, and chips of before there were keys.
//!
//! Whatever changes keys or chips here takes the rows that nobody holds and waits for nobody, so that it is in nobody's way; what
//! it had to leave is found by another pass. A chip and its key change in one transaction.

use sqlx::PgConnection;
use uuid::Uuid;

use super::chips::{Spoiled, seal_all, work};
use super::{Galleries, GalleryError};
use crate::db::Pools;
use crate::sealing::{Keyring, MasterId, SealingError, StoredKey, is_sealed};
use crate::types::FaceId;

/// Faces that are looked at in one go.
const LOOKED_AT: i64 = 4096;

/// Keys that are wrapped anew in one transaction.
const KEYS_OF_PIECE: i64 = 1000;

/// How many keys a master key wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysUnder {
    /// `None`: those that none wraps.
    pub master: Option<MasterId>,
    pub keys: u64,
}

/// What came of a piece of work on chips or keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChipsDone {
    pub done: u64,
    /// Those that cannot be read.
    pub set_aside: u64,
}

impl Galleries {
    /// With the master keys of the configuration. Fails if the keys of some chips are wrapped by others: their chips could not be
    /// read.
    pub async fn open(pools: &Pools, keyring: Keyring) -> Result<Self, GalleryError> {
        let galleries = Self { keyring, ..Self::new(pools) };
        let given: Vec<MasterId> = galleries.keyring.ids().collect();
        let missing: Vec<String> =
            galleries.masters().await?.into_iter().filter(|id| !given.contains(id)).map(|id| id.to_string()).collect();
        match missing.is_empty() {
            true => Ok(galleries),
            false => {
                let given = given.iter().map(MasterId::to_string).collect();
                Err(GalleryError::OtherChipKeys { missing, given })
            }
        }
    }

    /// The master keys by which keys are wrapped, however many those are.
    async fn masters(&self) -> Result<Vec<MasterId>, GalleryError> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "with recursive ids as ( \
               (select master_id from chip_keys where master_id is not null order by master_id limit 1) \
               union all \
               select (select k.master_id from chip_keys k where k.master_id > ids.master_id order by k.master_id limit 1) \
               from ids where ids.master_id is not null \
             ) select master_id from ids where master_id is not null",
        )
        .fetch_all(&self.pool)
        .await?;
        ids.iter().map(|id| master_id(id)).collect()
    }

    /// What new keys are wrapped by.
    pub fn newest_master(&self) -> Option<MasterId> {
        self.keyring.newest()
    }

    /// Whether keys under this master, or under none, are to be wrapped by the newest, and can be here.
    pub fn wraps_anew(&self, master: Option<MasterId>) -> bool {
        self.keyring.replaces(master)
    }

    /// How many keys each master key wraps.
    pub async fn count_chip_keys(&self) -> Result<Vec<KeysUnder>, GalleryError> {
        let rows: Vec<(Option<Vec<u8>>, i64)> =
            sqlx::query_as("select master_id, count(*) from chip_keys group by master_id order by master_id")
                .fetch_all(&self.beside)
                .await?;
        let under = |(master, keys): (Option<Vec<u8>>, i64)| {
            Ok(KeysUnder { master: master.as_deref().map(master_id).transpose()?, keys: keys.unsigned_abs() })
        };
        rows.into_iter().map(under).collect()
    }

    /// How many chips are stored as they are, but for those that were set aside.
    pub async fn count_plain_chips(&self) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from faces f where f.chip is not null \
             and not exists (select from chip_keys k where k.face_id = f.id) \
             and not exists (select from quarantine q where q.face_id = f.id and q.work = 'chips')",
        )
        .fetch_one(&self.beside)
        .await?;
        Ok(count.unsigned_abs())
    }

    /// Which of the next faces of all galleries, by id from after `after` on, have a chip that is stored as it is, but for those
    /// that were set aside; and the last face that was looked at, `None` if there was none.
    pub async fn plain_chips(&self, after: Option<FaceId>) -> Result<(Vec<FaceId>, Option<FaceId>), GalleryError> {
        let (plain, last): (Vec<Uuid>, Option<Uuid>) = sqlx::query_as(
            "with part as materialized (select id, chip is null as is_empty from faces \
               where $1::uuid is null or id > $1 order by id limit $2) \
             select coalesce((select array_agg(p.id order by p.id) from part p where not p.is_empty \
               and not exists (select from chip_keys k where k.face_id = p.id) \
               and not exists (select from quarantine q where q.face_id = p.id and q.work = 'chips')), '{}'), \
               (select id from part order by id desc limit 1)",
        )
        .bind(after.map(|face| face.0))
        .bind(LOOKED_AT)
        .fetch_one(&self.beside)
        .await?;
        Ok((plain.into_iter().map(FaceId).collect(), last.map(FaceId)))
    }

    /// Encrypts chips of these faces that are stored as they are. Those that somebody just works on are left for another time.
    pub async fn encrypt_chips(&self, faces: &[FaceId]) -> Result<ChipsDone, GalleryError> {
        let ids: Vec<Uuid> = faces.iter().map(|face| face.0).collect();
        let mut transaction = self.beside.begin().await?;
        let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
            "select f.id, f.chip from faces f where f.id = any($1) and f.chip is not null \
             and not exists (select from chip_keys k where k.face_id = f.id) order by f.id for no key update skip locked",
        )
        .bind(ids)
        .fetch_all(&mut *transaction)
        .await?;
        let (sealed, plain): (Vec<_>, Vec<_>) =
            rows.into_iter().map(|(id, chip)| (FaceId(id), chip)).partition(|(_, chip)| is_sealed(chip));
        let done = store_sealed(&mut transaction, &self.keyring, plain).await?;
        // Of those that somebody encrypted at this moment, the key is there by now.
        let ids: Vec<Uuid> = sealed.into_iter().map(|(face, _)| face.0).collect();
        let lost: Vec<Uuid> = sqlx::query_scalar(
            "select id from unnest($1::uuid[]) as s (id) where not exists (select from chip_keys k where k.face_id = s.id)",
        )
        .bind(ids)
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let lost: Vec<_> = lost.into_iter().map(|id| (FaceId(id), SealingError::NoKey)).collect();
        self.set_chips_aside(&lost).await?;
        Ok(ChipsDone { done, set_aside: lost.len() as u64 })
    }

    /// Wraps some of the keys by the newest master key that are under this one, or under none: those of faces after `after`, which
    /// it moves on. `None`: there is none after it.
    pub async fn wrap_keys(
        &self,
        master: Option<MasterId>,
        after: &mut Option<FaceId>,
    ) -> Result<Option<ChipsDone>, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        let rows = keys_under(&mut transaction, master, *after).await?;
        let Some((last, _)) = rows.last() else {
            transaction.commit().await?;
            return Ok(None);
        };
        *after = Some(FaceId(*last));
        let keyring = self.keyring.clone();
        let wrapped = work(rows.len(), move || {
            let anew = |(id, bytes)| (FaceId(id), keyring.wrap_anew(FaceId(id), &StoredKey { bytes, master }));
            rows.into_iter().map(anew).collect::<Vec<_>>()
        })
        .await?;
        let (done, spoiled) = store_wrapped(&mut transaction, wrapped).await?;
        transaction.commit().await?;
        self.set_chips_aside(&spoiled).await?;
        Ok(Some(ChipsDone { done, set_aside: spoiled.len() as u64 }))
    }
}

/// The next keys under a master key, locked, but for those that were set aside.
async fn keys_under(
    connection: &mut PgConnection,
    master: Option<MasterId>,
    after: Option<FaceId>,
) -> Result<Vec<(Uuid, Vec<u8>)>, GalleryError> {
    macro_rules! next {
        ($of:literal) => {
            concat!(
                "select k.face_id, k.key from chip_keys k where ",
                $of,
                " and ($2::uuid is null or k.face_id > $2) \
                 and not exists (select from quarantine q where q.face_id = k.face_id and q.work = 'chips') \
                 order by k.face_id limit $3 for no key update of k skip locked"
            )
        };
    }
    // Two statements, so that either goes by the index.
    let statement =
        if master.is_some() { next!("k.master_id = $1") } else { next!("k.master_id is null and $1::bytea is null") };
    Ok(sqlx::query_as(statement)
        .bind(master.map(|id| id.as_bytes().to_vec()))
        .bind(after.map(|face| face.0))
        .bind(KEYS_OF_PIECE)
        .fetch_all(connection)
        .await?)
}

/// Puts keys in the place of the same ones, which are locked: how many, and those that cannot be read.
async fn store_wrapped(
    connection: &mut PgConnection,
    wrapped: Vec<(FaceId, Result<StoredKey, SealingError>)>,
) -> Result<(u64, Spoiled), GalleryError> {
    let (mut faces, mut keys, mut masters, mut spoiled) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (face, key) in wrapped {
        match key {
            Ok(key) => {
                faces.push(face.0);
                keys.push(key.bytes);
                masters.push(key.master.map(|id| id.as_bytes().to_vec()));
            }
            Err(error) => spoiled.push((face, error)),
        }
    }
    let stored = sqlx::query(
        "update chip_keys k set key = n.key, master_id = n.master_id \
         from unnest($1::uuid[], $2::bytea[], $3::bytea[]) as n (face_id, key, master_id) where k.face_id = n.face_id",
    )
    .bind(faces)
    .bind(keys)
    .bind(masters)
    .execute(connection)
    .await?;
    Ok((stored.rows_affected(), spoiled))
}

/// Puts sealed chips in the place of plain ones, which are locked.
async fn store_sealed(
    connection: &mut PgConnection,
    keyring: &Keyring,
    plain: Vec<(FaceId, Vec<u8>)>,
) -> Result<u64, GalleryError> {
    let sealed = seal_all(keyring, plain).await?;
    let (mut faces, mut chips, mut keys) = (Vec::new(), Vec::new(), Vec::new());
    let (mut masters, mut digests) = (Vec::new(), Vec::new());
    for (face, sealed) in sealed {
        faces.push(face.0);
        chips.push(sealed.chip);
        keys.push(sealed.key.bytes);
        masters.push(sealed.key.master.map(|id| id.as_bytes().to_vec()));
        digests.push(sealed.sha256.to_vec());
    }
    sqlx::query(
        "update faces f set chip = n.chip from unnest($1::uuid[], $2::bytea[]) as n (id, chip) where f.id = n.id",
    )
    .bind(&faces)
    .bind(chips)
    .execute(&mut *connection)
    .await?;
    let stored = sqlx::query(
        "insert into chip_keys (face_id, key, master_id, chip_sha256) \
         select * from unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[])",
    )
    .bind(faces)
    .bind(keys)
    .bind(masters)
    .bind(digests)
    .execute(connection)
    .await?;
    Ok(stored.rows_affected())
}

fn master_id(bytes: &[u8]) -> Result<MasterId, GalleryError> {
    MasterId::try_from(bytes).map_err(|_| GalleryError::Inconsistent("the id of a master key is not 8 bytes long"))
}
