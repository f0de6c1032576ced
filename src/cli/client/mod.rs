//! A running server, as commands ask it: one way to send a request and to read its answer, for all of them.

mod events;
mod transfer;
mod trust;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::multipart::Form;
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

pub use events::ServerEvent;
pub use trust::Trust;

use super::CliError;
use crate::config::{ConfigArgs, Secret};
use crate::http::Problem;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// A request is sent so often when the server, or a proxy before it, is away for a moment.
const TRIES: u32 = 4;
const RETRY: Duration = Duration::from_millis(500);

/// By it a server knows a request that is sent again.
const REQUEST_KEY: &str = "idempotency-key";

fn request_key() -> String {
    Uuid::now_v7().to_string()
}

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
}

/// A request that is sent until there is an answer. Whoever is patient with a server that does not answer is so once.
struct Attempts {
    /// Those that another one followed.
    failed: u32,
    began: Instant,
    patience: Patience,
}

impl Attempts {
    fn new(patience: Patience) -> Self {
        Self { failed: 0, began: Instant::now(), patience }
    }

    /// Waits for the next attempt, if another one may come to something.
    async fn wait_after(&mut self, error: CliError) -> Result<(), CliError> {
        let is_last = self.failed + 1 == TRIES || self.began.elapsed() >= self.patience.limit();
        if is_last || !error.is_passing() {
            return Err(error);
        }
        // Who has had what they may have is told when there is more. Nobody waits for that longer than for an answer.
        let told = error.retry_after().map(|seconds| Duration::from_secs(seconds.into())).unwrap_or_default();
        if told > self.patience.limit().saturating_sub(self.began.elapsed()) {
            return Err(error);
        }
        self.failed += 1;
        tokio::time::sleep(told.max(RETRY * self.failed)).await;
        Ok(())
    }
}

/// Flags of commands that a server carries out, for which the admin key is needed.
#[derive(clap::Args)]
pub struct ServerArgs {
    /// The server
    #[arg(long, env = "FACEID_SERVER", value_name = "URL")]
    server: String,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    config: ConfigArgs,
}

impl ServerArgs {
    pub fn open(self) -> Result<Client, CliError> {
        let key = self.config.said()?.admin_key;
        Client::new(&self.server, self.patience, &self.trust, key)
    }
}

/// A server, and the key that opens it.
pub struct Client {
    http: reqwest::Client,
    /// For files, which may take as long as they keep going.
    uploads: reqwest::Client,
    patience: Patience,
    url: Url,
    key: Option<Secret>,
}

impl Client {
    /// Fails on a machine without certificates of authorities, unless it is told which to trust.
    pub fn new(server: &str, patience: Patience, trust: &Trust, key: Option<Secret>) -> Result<Self, CliError> {
        let expected = || CliError::Usage(format!("{server} is not an address such as http://127.0.0.1:8080"));
        let url = Url::parse(server).ok().filter(|url| url.has_host()).ok_or_else(expected)?;
        // A redirect may lead elsewhere, where nobody is to get the key.
        let client = || trust.apply(reqwest::Client::builder().connect_timeout(CONNECT).redirect(Policy::none()));
        let http = client()?.read_timeout(patience.limit()).build().map_err(CliError::Client)?;
        let uploads = client()?.build().map_err(CliError::Client)?;
        Ok(Self { http, uploads, patience, url, key })
    }

    /// Reads what is at a path.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &impl Serialize) -> Result<T, CliError> {
        let mut attempts = Attempts::new(self.patience);
        loop {
            match self.read(self.request(Method::GET, path)?.query(query)).await {
                Err(error) => attempts.wait_after(error).await?,
                answer => return answer,
            }
        }
    }

    /// Sends a JSON body. The request has a key, by which a server carries it out once.
    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, CliError> {
        self.post_and_tell(path, body).await.0
    }

    /// As [`Self::post`]; and whether it was sent before the attempt that was answered. A server that heeds no key there may have
    /// carried it out by then.
    pub async fn post_and_tell<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> (Result<T, CliError>, bool) {
        let (mut attempts, key) = (Attempts::new(self.patience), request_key());
        let answer = async {
            loop {
                match self.read(self.request(Method::POST, path)?.header(REQUEST_KEY, &key).json(body)).await {
                    Err(error) => attempts.wait_after(error).await?,
                    answer => return answer,
                }
            }
        };
        let answer = answer.await;
        (answer, attempts.failed > 0)
    }

    /// As [`Self::post`], but sent once: for what is answered but once.
    pub async fn post_once<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, CliError> {
        self.read(self.request(Method::POST, path)?.json(body)).await
    }

    /// Reads what is at a path as it comes, however much that is.
    pub async fn download(
        &self,
        path: &[&str],
        query: &impl Serialize,
        mut take: impl FnMut(&[u8]) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut attempts = Attempts::new(self.patience);
        let mut response = loop {
            let sent = self.request(Method::GET, path)?.query(query).send().await;
            let answer = match sent {
                Ok(response) => self.check(response).await,
                Err(error) => Err(self.unreachable(&error)),
            };
            match answer {
                Ok(response) => break response,
                Err(error) => attempts.wait_after(error).await?,
            }
        };
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            take(&piece)?;
        }
        Ok(())
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, CliError> {
        self.read(self.request(Method::DELETE, path)?).await
    }

    /// Sends a request and its files as a form, the files piece by piece: it may take as long as the server keeps taking more. It has
    /// a key, as in [`Self::post`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        path: &[&str],
        request: &impl Serialize,
        files: Vec<(&'static str, Bytes)>,
    ) -> Result<T, CliError> {
        let (mut attempts, key) = (Attempts::new(self.patience), request_key());
        loop {
            let progress = transfer::Progress::begin();
            let mut form = Form::new();
            for (name, text) in texts(request)? {
                form = form.text(name, text);
            }
            for (name, content) in &files {
                form = form.part(*name, progress.part(content.clone()));
            }
            let request = self.with_key(self.uploads.post(self.at(path)?)).header(REQUEST_KEY, &key).multipart(form);
            match progress.watch(self.patience.limit(), self.url.as_str(), self.read(request)).await {
                Err(error) => attempts.wait_after(error).await?,
                answer => return answer,
            }
        }
    }

    /// Sends a file from disk as the body, under a progress bar.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &impl Serialize,
        file: &Path,
        media_type: &str,
    ) -> Result<T, CliError> {
        let (body, length, bar, progress) = transfer::from_disk(file).await?;
        let request = self.uploads.post(self.at(path)?).query(query).header(header::CONTENT_TYPE, media_type);
        let request = self.with_key(request.header(header::CONTENT_LENGTH, length).body(body));
        let answer = progress.watch(self.patience.limit(), self.url.as_str(), self.read(request)).await;
        bar.finish_and_clear();
        answer
    }

    /// The address of what the server has at a path.
    fn at(&self, path: &[&str]) -> Result<Url, CliError> {
        if path.iter().any(|part| [".", ".."].contains(part)) {
            let why = "no path can hold this name; the list tells its id, which serves as well";
            return Err(CliError::Usage(why.to_owned()));
        }
        let mut url = self.url.clone();
        // Whatever has a host has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Ok(url)
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, CliError> {
        Ok(self.with_key(self.http.request(method, self.at(path)?)))
    }

    fn with_key(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.header("x-api-key", key.expose()),
            None => request,
        }
    }

    /// Sends a request, and reads the answer or the problem.
    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CliError> {
        let response = self.check(request.send().await.map_err(|error| self.unreachable(&error))?).await?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        // An answer without a body is `()`.
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| {
            CliError::refused(format!("{} answered something else than faceid does: {error}", self.url))
        })
    }

    /// An answer that is a success, or what the problem is.
    async fn check(&self, response: Response) -> Result<Response, CliError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => CliError::Problem(Box::new(problem)),
            Err(_) => CliError::Refused { status: Some(status), reason: format!("{} answered {status}", self.url) },
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        CliError::unreachable(self.url.as_str().trim_end_matches('/'), error)
    }
}

/// Whether a status says that somebody else should be asked, or the same one later.
pub fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The fields of a request as texts of a form; what is null is left out, and so are files.
fn texts(request: &impl Serialize) -> Result<Vec<(String, String)>, CliError> {
    let value = serde_json::to_value(request).map_err(|error| CliError::Render(error.to_string()))?;
    let Value::Object(members) = value else { return Ok(Vec::new()) };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(members.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, text(value))).collect())
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
