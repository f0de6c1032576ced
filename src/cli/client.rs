//! How commands ask a server, and for how long.

use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::{Body, Client, RequestBuilder};
use serde::de::DeserializeOwned;

use super::CliError;
use super::backend::read_answer;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Bytes of a file that are sent in one go.
const PIECE: usize = 256 << 10;

/// How patient a command is.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Patience {
    /// Seconds that a server may let a command wait: for its answer, for more of it, or until it takes more of a file
    #[arg(long, env = "FACEID_SERVER_TIMEOUT", default_value_t = 120, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    server_timeout: u64,
}

impl Patience {
    fn limit(self) -> Duration {
        Duration::from_secs(self.server_timeout)
    }

    /// What asks servers. Fails on a machine without certificates of authorities.
    pub fn client(self) -> Result<Client, CliError> {
        let client = Client::builder().connect_timeout(CONNECT).read_timeout(self.limit());
        client.build().map_err(CliError::Client)
    }

    /// As [`Self::client`], for files that may take as long as they keep going: whoever sends one watches its [`Progress`].
    pub fn uploader(self) -> Result<Client, CliError> {
        Client::builder().connect_timeout(CONNECT).build().map_err(CliError::Client)
    }
}

/// When a transfer last got on.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// The transfer gets on.
    pub fn note(&self) {
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

    /// A body that is sent piece by piece, with this progress.
    pub fn body(&self, content: Bytes) -> Body {
        let pieces: Vec<Bytes> = (0..content.len().div_ceil(PIECE))
            .map(|n| content.slice(n * PIECE..content.len().min((n + 1) * PIECE)))
            .collect();
        let progress = self.clone();
        Body::wrap_stream(stream::iter(pieces).map(move |piece| {
            progress.note();
            Ok::<_, Infallible>(piece)
        }))
    }

    /// Sends a request whose body has this progress, and reads the answer: as long as the server takes more of it.
    pub async fn send<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        url: &str,
        patience: Patience,
    ) -> Result<T, CliError> {
        let limit = patience.limit();
        tokio::select! {
            answer = read_answer(request, url) => answer,
            () = self.stalled(limit) => Err(CliError::Unreachable {
                server: url.to_owned(),
                reason: format!("for {} s it has neither taken more of the file nor answered", limit.as_secs()),
            }),
        }
    }
}

/// Why a server was not reached, in plain words: the innermost cause, which reqwest leaves out.
pub fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        let connect = || format!("no connection within {} s", CONNECT.as_secs());
        return if error.is_connect() { connect() } else { "no answer in time (see --server-timeout)".to_owned() };
    }
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
