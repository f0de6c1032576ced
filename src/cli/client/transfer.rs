//! Files that go to a server: as long as they get on.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use reqwest::Body;
use reqwest::multipart::Part;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use crate::cli::{CliError, progress_bar};

/// Bytes of a file that are sent in one go.
const PIECE: usize = 256 << 10;

/// When a transfer last got on.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// The transfer gets on.
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until the transfer has not got on for so long.
    async fn stalled(&self, limit: Duration) {
        loop {
            let rest = limit.saturating_sub(self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed());
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// A part of a form that is sent piece by piece, with this progress.
    pub fn part(&self, content: Bytes) -> Part {
        let length = content.len();
        let pieces = (0..length.div_ceil(PIECE)).map(move |n| content.slice(n * PIECE..length.min((n + 1) * PIECE)));
        let progress = self.clone();
        let pieces = stream::iter(pieces).map(move |piece| {
            progress.note();
            Ok::<_, Infallible>(piece)
        });
        Part::stream_with_length(Body::wrap_stream(pieces), length as u64).file_name("file")
    }

    /// The answer to a request whose body has this progress, unless for `limit` the server neither takes more of it nor answers.
    pub async fn watch<T>(
        &self,
        limit: Duration,
        server: &str,
        answer: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        tokio::select! {
            answer = answer => answer,
            () = self.stalled(limit) => Err(CliError::Unreachable {
                server: server.trim_end_matches('/').to_owned(),
                reason: format!("for {} s it has neither taken more of the file nor answered (see --server-timeout)", limit.as_secs()),
            }),
        }
    }
}

/// A file on disk as a body, its length, and a bar that shows how far it is.
pub async fn from_disk(path: &Path) -> Result<(Body, u64, ProgressBar, Progress), CliError> {
    let failed = || CliError::io(format!("cannot read {}", path.display()));
    let file = File::open(path).await.map_err(failed())?;
    let length = file.metadata().await.map_err(failed())?.len();
    let bar = progress_bar(Some(length), "uploading {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left");
    let progress = Progress::begin();
    let (sent, noted) = (bar.clone(), progress.clone());
    let pieces = pieces(file).inspect_ok(move |piece| {
        sent.inc(piece.len() as u64);
        noted.note();
    });
    Ok((Body::wrap_stream(pieces), length, bar, progress))
}

/// What a file holds, bit by bit.
fn pieces(file: File) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(file, |mut file| async {
        let mut piece = BytesMut::with_capacity(PIECE);
        let count = file.read_buf(&mut piece).await?;
        Ok((count > 0).then(|| (piece.freeze(), file)))
    })
}
