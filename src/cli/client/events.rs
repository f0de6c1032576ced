//! The events of a job, which are heard until it is finished.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;

use super::Client;
use crate::cli::CliError;

/// How long a server that was cut off while it told events may be away: it may be restarting, and so may a proxy before it.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// One Server-Sent Event.
#[derive(Debug, PartialEq)]
pub struct ServerEvent {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

impl Client {
    /// Hears the events of a stream until `heard` says that there will be no more. A server that goes away is asked again for
    /// a while, from where it was cut off.
    pub async fn follow(&self, path: &[&str], mut heard: impl FnMut(&ServerEvent) -> bool) -> Result<(), CliError> {
        let mut last = "0".to_owned();
        let mut away = Duration::ZERO;
        loop {
            let before = last.clone();
            let failed = match self.listen(path, &mut last, &mut heard).await {
                Ok(Heard::All) => return Ok(()),
                Ok(Heard::Some) if last != before => {
                    away = Duration::ZERO;
                    None
                }
                // Not a word: perhaps somebody else answers.
                Ok(Heard::Some) => Some(CliError::refused(format!("{} tells no events", self.url))),
                Err(error) if error.is_passing() => Some(error),
                Err(error) => return Err(error),
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

    /// Hears events until the stream ends.
    async fn listen(
        &self,
        path: &[&str],
        last: &mut String,
        heard: &mut impl FnMut(&ServerEvent) -> bool,
    ) -> Result<Heard, CliError> {
        let request = self.request(Method::GET, path)?.header("last-event-id", last.as_str());
        let mut response = self.check(request.send().await.map_err(|error| self.unreachable(&error))?).await?;
        hear(&mut response, last, heard).await.or(Ok(Heard::Some))
    }
}

enum Heard {
    /// There will be no more.
    All,
    /// The stream ended before.
    Some,
}

async fn hear(
    response: &mut Response,
    last: &mut String,
    heard: &mut impl FnMut(&ServerEvent) -> bool,
) -> Result<Heard, reqwest::Error> {
    let mut text = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = text.drain(..end + 2).collect();
            let Some(event) = parse(&String::from_utf8_lossy(&block)) else { continue };
            last.clone_from(&event.id);
            if heard(&event) {
                return Ok(Heard::All);
            }
        }
    }
    Ok(Heard::Some)
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
