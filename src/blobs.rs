//! The store of files: a folder, or a bucket that a URL names. A model's file is named by its sha256 and never changes;
//! beside them are uploads, until their job is done.

mod open;
mod uploads;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use thiserror::Error;

pub use uploads::{NewUpload, Upload};
use writer::Writer;

use crate::types::{UploadId, hex};

#[derive(Debug, Error)]
pub enum BlobError {
    #[error("cannot use the folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("{scheme}:// is no model store: a folder, file://, s3://, gs:// or az:// is expected")]
    Scheme { scheme: String },
    #[error("the model store cannot be used: {0}")]
    Store(#[from] object_store::Error),
    #[error("the model store has no file {name}; do all servers of this database use the same --model-store?")]
    Missing { name: String },
    #[error("the upload {0} is not in the model store")]
    NoUpload(UploadId),
    #[error("the file {name} in the model store was damaged: its content has another sha256")]
    Damaged { name: String },
}

/// Files by their sha256. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Of a store that is a folder.
    folder: Option<PathBuf>,
}

impl Blobs {
    /// Stores a content and returns its sha256. A content that is there already stays as it is.
    pub async fn put(&self, content: Bytes) -> Result<[u8; 32], BlobError> {
        let sha256: [u8; 32] = digest(content.clone()).await;
        if self.get(&sha256).await.is_err() {
            let mut writer = self.writer(&self.path(&sha256)).await?;
            writer.write(content).await?;
            writer.finish().await?;
        }
        Ok(sha256)
    }

    /// Whether there is a file for the content with this sha256.
    pub async fn has(&self, sha256: &[u8; 32]) -> Result<bool, BlobError> {
        match self.store.head(&self.path(sha256)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            found => Ok(found.map(|_| true)?),
        }
    }

    /// The content with this sha256.
    pub async fn get(&self, sha256: &[u8; 32]) -> Result<Bytes, BlobError> {
        let name = hex(sha256);
        let found = match self.store.get(&self.path(sha256)).await {
            Err(object_store::Error::NotFound { .. }) => return Err(BlobError::Missing { name }),
            found => found?,
        };
        let content = found.bytes().await?;
        if digest(content.clone()).await == *sha256 { Ok(content) } else { Err(BlobError::Damaged { name }) }
    }

    /// Deletes a content, if it is there.
    pub async fn delete(&self, sha256: &[u8; 32]) -> Result<(), BlobError> {
        match self.store.delete(&self.path(sha256)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    async fn writer(&self, path: &Path) -> Result<Writer, BlobError> {
        Ok(Writer::new(self.store.put_multipart(path).await?))
    }

    fn path(&self, sha256: &[u8; 32]) -> Path {
        self.prefix.clone().join(hex(sha256))
    }
}

/// The sha256 of a content. Hashing hundreds of megabytes would hold up a thread of the runtime.
pub async fn digest(content: Bytes) -> [u8; 32] {
    let hashed = tokio::task::spawn_blocking(move || Sha256::digest(&content).into()).await;
    // The task neither panics nor is cancelled.
    hashed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelStoreConfig;

    #[tokio::test]
    async fn contents_come_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("models");
        let url = url::Url::from_directory_path(folder.path().join("models")).unwrap();
        for config in [ModelStoreConfig::Folder(here.clone()), ModelStoreConfig::Url { url, options: Vec::new() }] {
            let blobs = Blobs::open(&config).unwrap();
            let sha256 = blobs.put("weights".into()).await.unwrap();
            assert_eq!(blobs.put("weights".into()).await.unwrap(), sha256);
            assert!(blobs.has(&sha256).await.unwrap());
            assert_eq!(blobs.get(&sha256).await.unwrap(), "weights");
            std::fs::write(here.join(hex(&sha256)), "weight").unwrap();
            assert!(matches!(blobs.get(&sha256).await, Err(BlobError::Damaged { .. })));
            // What is damaged is mended by the same content.
            blobs.put("weights".into()).await.unwrap();
            assert_eq!(blobs.get(&sha256).await.unwrap(), "weights");
            blobs.delete(&sha256).await.unwrap();
            blobs.delete(&sha256).await.unwrap();
            assert!(matches!(blobs.get(&sha256).await, Err(BlobError::Missing { .. })));
            assert!(!blobs.has(&sha256).await.unwrap());
        }
    }
}
