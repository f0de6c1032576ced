//! A running server, asked with the admin key.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt, stream};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::backend::{check, read_answer};
use super::client::{Patience, Progress};
use super::{CliError, progress_bar};
use crate::config::{ConfigArgs, Secret};

/// How long a server that was cut off while it told events may be away: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Bytes of a file that are sent in one go.
const CHUNK: usize = 256 << 10;

/// Flags of commands that a server carries out.
#[derive(clap::Args)]
pub struct RemoteArgs {
    /// The server
    #[arg(long, env = "FACEID_SERVER", value_name = "URL")]
    server: String,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A server, and the key that opens /admin there.
pub struct Remote {
    client: reqwest::Client,
    patience: Patience,
    url: String,
    key: Option<Secret>,
}

/// One Server-Sent Event.
#[derive(Debug, PartialEq)]
pub struct ServerEvent {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

impl RemoteArgs {
    pub fn open(self) -> Result<Remote, CliError> {
        let key = self.config.said()?.admin_key;
        let url = self.server.trim_end_matches('/').to_owned();
        Ok(Remote { client: self.patience.client()?, patience: self.patience, url, key })
    }
}

impl Remote {
    /// Asks with an optional JSON body.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, CliError> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        read_answer(request, &self.url).await
    }

    /// Sends a file as the body, under a progress bar. It may take as long as the server keeps taking more of it.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        file: &Path,
        media_type: &str,
    ) -> Result<T, CliError> {
        let failed = || CliError::io(format!("cannot read {}", file.display()));
        let content = File::open(file).await.map_err(failed())?;
        let length = content.metadata().await.map_err(failed())?.len();
        let bar = progress_bar(Some(length), "uploading {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left");
        let (sent, progress) = (bar.clone(), Progress::begin());
        let noted = progress.clone();
        let body = chunks(content).inspect_ok(move |chunk| {
            sent.inc(chunk.len() as u64);
            noted.note();
        });
        let request = self
            .request_of(&self.patience.uploader()?, Method::POST, path)
            .query(query)
            .header(header::CONTENT_TYPE, media_type)
            .header(header::CONTENT_LENGTH, length)
            .body(Body::wrap_stream(body));
        let answer = progress.send(request, &self.url, self.patience).await;
        bar.finish_and_clear();
        answer
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_of(&self.client, method, path)
    }

    fn request_of(&self, client: &reqwest::Client, method: Method, path: &str) -> RequestBuilder {
        let request = client.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.header("x-api-key", key.expose()),
            None => request,
        }
    }

    /// Hears the events of a stream until `heard` says that there will be no more. A server that goes away is asked again for
    /// a while, from where it was cut off.
    pub async fn follow(&self, path: &str, mut heard: impl FnMut(&ServerEvent) -> bool) -> Result<(), CliError> {
        let mut last = "0".to_owned();
        let mut away = Duration::ZERO;
        loop {
            let request = self.request(Method::GET, path).header("last-event-id", &last);
            let failed = match request.send().await {
                // It starts, or its database does.
                Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    check(response, &self.url).await.err()
                }
                Ok(response) => {
                    let mut response = check(response, &self.url).await?;
                    away = Duration::ZERO;
                    match hear(&mut response, &mut last, &mut heard).await {
                        Ok(true) => return Ok(()),
                        Ok(false) => None,
                        Err(error) => Some(CliError::unreachable(&self.url, &error)),
                    }
                }
                Err(error) => Some(CliError::unreachable(&self.url, &error)),
            };
            away += RETRY;
            if let Some(error) = failed
                && away > PATIENCE
            {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What a file holds, bit by bit.
fn chunks(file: File) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(file, |mut file| async {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let count = file.read_buf(&mut chunk).await?;
        Ok((count > 0).then(|| (chunk.freeze(), file)))
    })
}

/// Hears events until the stream ends; whether there will be no more.
async fn hear(
    response: &mut Response,
    last: &mut String,
    heard: &mut impl FnMut(&ServerEvent) -> bool,
) -> Result<bool, reqwest::Error> {
    let mut text = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = text.drain(..end + 2).collect();
            let Some(event) = parse(&String::from_utf8_lossy(&block)) else { continue };
            last.clone_from(&event.id);
            if heard(&event) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// An event as our server writes it; `None` for a comment that only says that the server is alive.
fn parse(block: &str) -> Option<ServerEvent> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = serde_json::from_str(field("data")?).ok()?;
    Some(ServerEvent { id: field("id")?.to_owned(), kind: field("event")?.to_owned(), data })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_read_and_comments_are_not() {
        let event = parse("id: 7\nevent: state\ndata: {\"state\":\"running\"}\n\n").unwrap();
        assert_eq!((event.id.as_str(), event.kind.as_str()), ("7", "state"));
        assert_eq!(event.data, json!({"state": "running"}));
        assert_eq!(parse(":\n\n"), None);
    }
}
