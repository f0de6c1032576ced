//! Files that somebody uploads for a job: they arrive in parts, are read from any place, and go when the job is done.

use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::runtime::Handle;

use super::writer::Writer;
use super::{BlobError, Blobs};
use crate::types::UploadId;

/// Where they are in the store.
const FOLDER: &str = "uploads";

/// Bytes that are read from the store in one go.
const BLOCK: u64 = 4 << 20;

/// A file that arrives. Dropped before it is finished, it leaves nothing.
pub struct NewUpload {
    id: UploadId,
    writer: Writer,
}

impl NewUpload {
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.writer.write(bytes).await
    }

    /// Keeps the file until it is deleted.
    pub async fn finish(self) -> Result<UploadId, BlobError> {
        self.writer.finish().await?;
        Ok(self.id)
    }
}

impl Blobs {
    /// Begins a file.
    pub async fn begin_upload(&self) -> Result<NewUpload, BlobError> {
        let id = UploadId::new();
        Ok(NewUpload { id, writer: self.writer(&self.upload_path(id)).await? })
    }

    /// A file that was finished.
    pub async fn upload(&self, id: UploadId) -> Result<Upload, BlobError> {
        let size = match self.store.head(&self.upload_path(id)).await {
            Err(object_store::Error::NotFound { .. }) => return Err(BlobError::NoUpload(id)),
            found => found?.size,
        };
        Ok(Upload { blobs: self.clone(), id, size, position: 0, block: (0, Bytes::new()), runtime: Handle::current() })
    }

    /// Deletes a file, if it is there.
    pub async fn delete_upload(&self, id: UploadId) -> Result<(), BlobError> {
        match self.store.delete(&self.upload_path(id)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            deleted => Ok(deleted?),
        }
    }

    /// The files that were finished longer ago than `age`.
    pub async fn uploads_older_than(&self, age: Duration) -> Result<Vec<UploadId>, BlobError> {
        let limit = Utc::now() - TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
        let all: Vec<_> = self.store.list(Some(&self.prefix.clone().join(FOLDER))).try_collect().await?;
        let old = all.into_iter().filter(|file| file.last_modified < limit);
        Ok(old.filter_map(|file| file.location.filename()?.parse().ok().map(UploadId)).collect())
    }

    /// Deletes what a process that died in the middle of an upload left in a folder, if nobody wrote there for `age`.
    pub async fn delete_broken_uploads(&self, age: Duration) -> Result<(), BlobError> {
        let Some(folder) = self.folder.as_ref().map(|folder| folder.join(FOLDER)) else { return Ok(()) };
        let path = folder.clone();
        let swept = tokio::task::spawn_blocking(move || sweep(&folder, age)).await.map_err(Error::other);
        swept.flatten().map_err(|source| BlobError::Folder { path, source })
    }

    fn upload_path(&self, id: UploadId) -> Path {
        self.prefix.clone().join(FOLDER).join(id.to_string())
    }
}

/// Unfinished files have the name of the finished one, `#` and a number.
fn sweep(folder: &std::path::Path, age: Duration) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let is_old = |path: &PathBuf| {
        let written = std::fs::metadata(path).and_then(|file| file.modified());
        written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|since| since > age))
    };
    let unfinished = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains('#'));
    unfinished.map(|entry| entry.path()).filter(is_old).try_for_each(std::fs::remove_file)
}

/// A file of the store that is read from any place. Not on the threads of the runtime: reading waits for the store.
///
/// What the store does not give is an error that holds a [`BlobError`].
pub struct Upload {
    blobs: Blobs,
    id: UploadId,
    size: u64,
    position: u64,
    /// What was read last, and where it begins.
    block: (u64, Bytes),
    runtime: Handle,
}

impl Upload {
    /// What the block that is held has from the present position on.
    fn held(&self) -> &[u8] {
        let (start, block) = &self.block;
        let skipped = self.position.checked_sub(*start).and_then(|skipped| usize::try_from(skipped).ok());
        skipped.and_then(|skipped| block.get(skipped..)).unwrap_or_default()
    }

    fn fetch(&mut self) -> Result<(), BlobError> {
        let start = self.position / BLOCK * BLOCK;
        let range = start..(start + BLOCK).min(self.size);
        let path = self.blobs.upload_path(self.id);
        let block = match self.runtime.block_on(self.blobs.store.get_range(&path, range)) {
            Err(object_store::Error::NotFound { .. }) => return Err(BlobError::NoUpload(self.id)),
            block => block?,
        };
        self.block = (start, block);
        Ok(())
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.position >= self.size {
            return Ok(0);
        }
        if self.held().is_empty() {
            self.fetch().map_err(Error::other)?;
        }
        let held = self.held();
        let count = held.len().min(buffer.len());
        buffer[..count].copy_from_slice(&held[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Upload {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a place before the start"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::PART;
    use super::*;
    use crate::config::ModelStoreConfig;

    #[tokio::test(flavor = "multi_thread")]
    async fn uploads_are_read_from_any_place_until_they_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&ModelStoreConfig::Folder(folder.path().to_owned())).unwrap();
        let content: Vec<u8> = (0..3 * BLOCK + 7).map(|at| (at % 251) as u8).collect();
        let mut new = blobs.begin_upload().await.unwrap();
        for chunk in content.chunks(100_000) {
            new.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        let id = new.finish().await.unwrap();
        let mut upload = blobs.upload(id).await.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            upload.read_to_end(&mut all).unwrap();
            let mut last = [0; 3];
            upload.seek(SeekFrom::End(-3)).unwrap();
            upload.read_exact(&mut last).unwrap();
            upload.seek(SeekFrom::Start(BLOCK - 1)).unwrap();
            let mut across = [0; 2];
            upload.read_exact(&mut across).unwrap();
            assert!(upload.seek(SeekFrom::Start(0)).is_ok() && upload.seek(SeekFrom::Current(-1)).is_err());
            (all, last, across)
        });
        let (all, last, across) = read.await.unwrap();
        assert!(all == content);
        assert!(last == content[content.len() - 3..] && across == content[BLOCK as usize - 1..BLOCK as usize + 1]);
        assert_eq!(blobs.uploads_older_than(Duration::ZERO).await.unwrap(), [id]);
        assert!(blobs.uploads_older_than(Duration::from_secs(60)).await.unwrap().is_empty());
        blobs.delete_upload(id).await.unwrap();
        blobs.delete_upload(id).await.unwrap();
        assert!(matches!(blobs.upload(id).await, Err(BlobError::NoUpload(_))));
    }

    #[tokio::test]
    async fn what_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&ModelStoreConfig::Folder(folder.path().to_owned())).unwrap();
        let files = || std::fs::read_dir(folder.path().join(FOLDER)).map_or(0, Iterator::count);
        let mut new = blobs.begin_upload().await.unwrap();
        new.write(Bytes::from(vec![1; PART + 1])).await.unwrap();
        assert_eq!(files(), 1);
        drop(new);
        while files() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // As a process leaves it that is killed.
        let mut new = blobs.begin_upload().await.unwrap();
        new.write(Bytes::from(vec![1; PART + 1])).await.unwrap();
        std::mem::forget(new);
        blobs.delete_broken_uploads(Duration::from_secs(60)).await.unwrap();
        assert_eq!(files(), 1);
        blobs.delete_broken_uploads(Duration::ZERO).await.unwrap();
        assert_eq!(files(), 0);
    }
}
