//! A file on its way into the store.

use bytes::Bytes;
use object_store::{MultipartUpload, WriteMultipart};
use tokio::runtime::Handle;
use tracing::warn;

use super::BlobError;

/// Bytes that are sent to the store in one go, and how many such parts may be under way: a provider that is slow has time
/// for each of them.
pub(super) const PART: usize = 8 << 20;
const PARTS_UNDER_WAY: usize = 2;

/// Dropped before it is finished, it leaves nothing.
pub(super) struct Writer {
    /// Until it is finished.
    parts: Option<WriteMultipart>,
}

impl Writer {
    pub(super) fn new(parts: Box<dyn MultipartUpload>) -> Self {
        Self { parts: Some(WriteMultipart::new_with_chunk_size(parts, PART)) }
    }

    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<(), BlobError> {
        while let Some(parts) = self.parts.as_mut().filter(|_| !bytes.is_empty()) {
            parts.wait_for_capacity(PARTS_UNDER_WAY).await?;
            parts.put(bytes.split_to(bytes.len().min(PART)));
        }
        Ok(())
    }

    /// Keeps the file.
    pub(super) async fn finish(mut self) -> Result<(), BlobError> {
        if let Some(parts) = self.parts.take() {
            parts.finish().await?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A provider keeps the parts of what is not finished until it is told to forget them.
        if let (Some(parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = parts.abort().await {
                    warn!(%error, "what arrived of a file stays in the model store");
                }
            });
        }
    }
}
