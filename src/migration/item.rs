//! What readers yield.

use std::path::PathBuf;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Builder;

use super::MigrationError;
use super::compreface::StoredImage;
use crate::gallery::Metadata;
use crate::types::{FaceId, Name};

/// Items of a page of a source that is in memory: so many ids are asked for at once.
const PAGE: usize = 500;

/// A face of a source, or a subject without one.
pub struct Item {
    pub gallery: Name,
    /// As the source has it; it may be no name here.
    pub subject: String,
    /// The same whenever the source is read.
    pub id: FaceId,
    /// How the source calls it.
    pub identity: String,
    pub content: Result<Content, Refusal>,
    pub metadata: Metadata,
    pub created_at: Option<DateTime<Utc>>,
}

/// What a source has of a face.
pub enum Content {
    /// A file with a photo, read when its turn comes.
    PhotoFile(PathBuf),
    /// The photo of an example of CompreFace, read when its turn comes.
    Stored(StoredImage),
    /// A photo from which little but the face was cut out; if no face is found in it, all of it counts as one.
    Crop(Bytes),
    /// A chip, aligned as ours are.
    Chip(Bytes),
    /// Nothing but numbers that a model made.
    Embedding(Vec<f32>),
    /// Nothing: the subject is there without a face.
    SubjectAlone,
}

/// Why something is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Stable and machine-readable.
    pub code: &'static str,
    pub detail: String,
}

impl Refusal {
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// What is to be taken over, in pages.
pub struct Source {
    pub pages: BoxStream<'static, Result<Vec<Item>, MigrationError>>,
    /// How many items there are, if that is known before they are read.
    pub total: Option<u64>,
}

impl Source {
    /// Of items that are at hand.
    pub fn of(items: Vec<Item>) -> Self {
        let total = Some(items.len() as u64);
        let pages = stream::iter(items).chunks(PAGE).map(Ok).boxed();
        Self { pages, total }
    }
}

/// The id of a face whose source has none that could be kept: always the same for the same place in the same gallery. It is a
/// UUID of version 8.
pub fn derived_id(kind: &str, gallery: &Name, subject: &str, place: &str) -> FaceId {
    let mut hash = Sha256::new();
    for part in [kind, gallery.as_str(), subject, place] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    FaceId(Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_depends_on_every_part_and_on_nothing_else() {
        let name = |text: &str| Name::try_from(text.to_owned()).unwrap();
        let id = |kind, gallery, subject, place| derived_id(kind, &name(gallery), subject, place);
        let first = id("folder", "staff", "Ada", "Ada/1.jpg");
        assert_eq!(first, id("folder", "staff", "Ada", "Ada/1.jpg"));
        assert_eq!(first.0.get_version_num(), 8);
        for other in [
            id("csv", "staff", "Ada", "Ada/1.jpg"),
            id("folder", "guests", "Ada", "Ada/1.jpg"),
            id("folder", "staff", "Bob", "Ada/1.jpg"),
            id("folder", "staff", "Ada", "Ada/2.jpg"),
            // Where one part ends and the next begins counts.
            id("folder", "staff", "AdaA", "da/1.jpg"),
        ] {
            assert_ne!(first, other);
        }
    }
}
