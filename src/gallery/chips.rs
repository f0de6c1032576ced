//! Chips at the border of the gallery: sealed on their way into the database, opened on their way out. What is above sees
//! plain ones.

use sqlx::FromRow;
use tracing::warn;
use uuid::Uuid;

use super::{Galleries, GalleryError, SetAsideFrom, SetAsideItem};
use crate::sealing::{Keyring, MasterId, SealedChip, SealingError, StoredKey};
use crate::types::{FaceId, ModelId};

/// From this many chips on, they are sealed and opened off the async threads.
const MANY: usize = 32;

/// What tells the photo of a face, which has a chip, from other photos: the photo's sha256, or the chip's where that is not known. The
/// chip is read only if it is of before there were keys.
macro_rules! photo {
    ($face:literal) => {
        concat!(
            "coalesce(",
            $face,
            ".image_sha256, (select k.chip_sha256 from chip_keys k where k.face_id = ",
            $face,
            ".id), sha256(",
            $face,
            ".chip))"
        )
    };
}
pub(super) use photo;

/// A chip as it is stored.
#[derive(FromRow)]
pub(super) struct ChipRow {
    pub id: Uuid,
    pub chip: Vec<u8>,
    pub key: Option<Vec<u8>>,
    pub master_id: Option<Vec<u8>>,
}

/// Faces whose chips, or their keys, cannot be read, and why.
pub(super) type Spoiled = Vec<(FaceId, SealingError)>;

/// Chips of some faces, in no order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadChips {
    /// As JPEG.
    pub chips: Vec<(FaceId, Vec<u8>)>,
    /// Those that are damaged, or their keys.
    pub unreadable: Vec<(FaceId, SealingError)>,
}

/// A face's chip, or why it cannot be read.
pub(super) type Opened = (FaceId, Result<Vec<u8>, SealingError>);

impl ChipRow {
    pub fn open(self, keyring: &Keyring) -> Opened {
        let face = FaceId(self.id);
        let key = self.key.map(|bytes| stored_key(bytes, self.master_id.as_deref())).transpose();
        (face, key.and_then(|key| keyring.open(face, self.chip, key.as_ref())))
    }
}

pub(super) fn stored_key(bytes: Vec<u8>, master: Option<&[u8]>) -> Result<StoredKey, SealingError> {
    Ok(StoredKey { bytes, master: master.map(MasterId::try_from).transpose()? })
}

/// Opens chips, in their order.
pub(super) async fn open_all(keyring: &Keyring, rows: Vec<ChipRow>) -> Result<Vec<Opened>, GalleryError> {
    let keyring = keyring.clone();
    work(rows.len(), move || rows.into_iter().map(|row| row.open(&keyring)).collect()).await
}

/// Seals chips, in their order.
pub(super) async fn seal_all(
    keyring: &Keyring,
    chips: Vec<(FaceId, Vec<u8>)>,
) -> Result<Vec<(FaceId, SealedChip)>, GalleryError> {
    let keyring = keyring.clone();
    work(chips.len(), move || chips.into_iter().map(|(face, chip)| (face, keyring.seal(face, &chip))).collect()).await
}

/// Works on so many chips where that holds nobody up.
pub(super) async fn work<T: Send + 'static>(
    chips: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GalleryError> {
    if chips < MANY {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| GalleryError::Thread(error.to_string()))
}

/// Those that can be read, and those that cannot. Fails if one is for want of a master key: then nothing is wrong with it, and
/// another server, or this one with that key, can do the work.
pub(super) fn readable(opened: Vec<Opened>) -> Result<ReadChips, GalleryError> {
    let mut read = ReadChips::default();
    for (face, chip) in opened {
        match chip {
            Ok(chip) => read.chips.push((face, chip)),
            Err(source) if source.is_of_master() => return Err(GalleryError::UnreadableChip { face, source }),
            Err(error) => read.unreadable.push((face, error)),
        }
    }
    Ok(read)
}

impl Galleries {
    /// Sets faces aside whose chips, or whose keys, cannot be read.
    pub(super) async fn set_chips_aside(&self, spoiled: &[(FaceId, SealingError)]) -> Result<(), GalleryError> {
        if spoiled.is_empty() {
            return Ok(());
        }
        // What is set aside is so for a model: chips are of use to whichever is active.
        let active: Option<Uuid> =
            sqlx::query_scalar("select id from models where state = 'active'").fetch_optional(&self.beside).await?;
        for (face, reason) in spoiled {
            warn!(%face, %reason, "the chip of a face cannot be read; it is set aside");
            if let Some(model) = active {
                let reason = format!("its chip cannot be read: {reason}");
                self.set_aside(SetAsideFrom::Chips, ModelId(model), SetAsideItem::Face(*face), &reason).await?;
            }
        }
        Ok(())
    }
}
