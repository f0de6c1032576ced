//! Compressed bodies, of requests and of answers.

use async_compression::tokio::bufread::{GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};

use super::problem::{Code, Problem};

/// What a request may be compressed with.
const TAKEN: &str = "gzip, zstd, deflate";

/// Bytes that are decompressed at a time.
const PIECE: usize = 16 << 10;

/// The largest window of zstd, as a power of two: what RFC 9659 allows. It is memory that a client has the server take.
const ZSTD_WINDOW: u32 = 23;

/// Answers below this many bytes fit a packet anyway.
const WORTHWHILE: u64 = 1024;

/// A body is not what its `Content-Encoding` says.
#[derive(Debug, Error)]
#[error("it is not {encoding}, as Content-Encoding says: {source}")]
struct Undecodable {
    encoding: &'static str,
    source: std::io::Error,
}

type Worthwhile = And<And<And<SizeAbove, NotForContentType>, NotForContentType>, Untagged>;

/// An answer with an `ETag`, which stands for its bytes as they are (RFC 9110, section 8.8.3.3), goes out as it is.
#[derive(Debug, Clone, Copy)]
pub struct Untagged;

impl Predicate for Untagged {
    fn should_compress<B: HttpBody>(&self, response: &Response<B>) -> bool {
        !response.headers().contains_key(header::ETAG)
    }
}

/// Compresses answers for those who take it; not events, which must not wait for one another, nor images, which are compressed.
pub fn answers() -> CompressionLayer<Worthwhile> {
    let worthwhile =
        SizeAbove::new(WORTHWHILE).and(NotForContentType::IMAGES).and(NotForContentType::SSE).and(Untagged);
    CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worthwhile)
}

/// Whoever refuses an answer as it is, and every encoding that there is, gets it as it is: by then it may say that something was
/// stored.
pub async fn no_answer_is_withheld(mut request: Request, next: Next) -> Response {
    let refuses = |value: &HeaderValue| {
        let words: String = value.to_str().unwrap_or_default().to_lowercase().split_whitespace().collect();
        ["identity;q=0", "*;q=0"].iter().any(|refusal| words.contains(refusal))
    };
    if request.headers().get_all(header::ACCEPT_ENCODING).iter().any(refuses) {
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    next.run(request).await
}

/// Decompresses the body of a request, so that whoever reads it sees, and counts, what was in it.
pub async fn decoded(request: Request, next: Next) -> Response {
    let encoding = match encoding(request.headers()) {
        Ok(None) => return next.run(request).await,
        Ok(Some(encoding)) => encoding,
        Err(problem) => {
            let mut response = problem.into_response();
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(TAKEN));
            return response;
        }
    };
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(header::CONTENT_ENCODING);
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    // It is that of the compressed body.
    parts.headers.remove(header::CONTENT_LENGTH);
    next.run(Request::from_parts(parts, decompressed(body, encoding))).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Zstd,
    Deflate,
}

/// What a body is compressed with, if it is.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Problem> {
    let named: Vec<String> = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .split(',')
                .map(|name| name.trim().to_lowercase())
                .collect::<Vec<_>>()
        })
        .filter(|name| !matches!(name.as_str(), "" | "identity"))
        .collect();
    match named.as_slice() {
        [] => Ok(None),
        [one] => match one.as_str() {
            "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
            "zstd" => Ok(Some(Encoding::Zstd)),
            "deflate" => Ok(Some(Encoding::Deflate)),
            other => Err(unsupported(other)),
        },
        several => Err(unsupported(&several.join(", "))),
    }
}

fn unsupported(named: &str) -> Problem {
    let detail = format!("a body with Content-Encoding {named:?} is not taken; one of {TAKEN} is, or none");
    Problem::new(Code::UnsupportedEncoding, detail)
}

fn decompressed(body: Body, encoding: Encoding) -> Body {
    let compressed = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    match encoding {
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(compressed);
            decoder.multiple_members(true);
            pieces("gzip", decoder)
        }
        Encoding::Zstd => {
            let mut decoder = ZstdDecoder::with_params(compressed, &[DParameter::window_log_max(ZSTD_WINDOW)]);
            decoder.multiple_members(true);
            pieces("zstd", decoder)
        }
        Encoding::Deflate => pieces("deflate", ZlibDecoder::new(compressed)),
    }
}

fn pieces(encoding: &'static str, decoder: impl AsyncRead + Send + 'static) -> Body {
    let pieces = Box::pin(ReaderStream::with_capacity(decoder, PIECE));
    Body::from_stream(considerate(pieces.map_err(move |source| Undecodable { encoding, source })))
}

/// A stream that lets others go on: a few bytes can become very many, for which nothing is waited for.
fn considerate<E>(pieces: impl Stream<Item = Result<Bytes, E>> + Unpin) -> impl Stream<Item = Result<Bytes, E>> {
    stream::unfold(pieces, |mut pieces| async {
        tokio::task::coop::consume_budget().await;
        pieces.next().await.map(|piece| (piece, pieces))
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::Request;
    use axum::routing::get;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    fn of(values: &[&str]) -> Result<Option<Encoding>, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
        }
        encoding(&headers).map_err(|problem| problem.detail)
    }

    #[test]
    fn encodings_are_known_by_their_names() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["GZip"]), Ok(Some(Encoding::Gzip)));
        assert_eq!(of(&["identity, x-gzip"]), Ok(Some(Encoding::Gzip)));
        assert_eq!(of(&["zstd"]), Ok(Some(Encoding::Zstd)));
        assert_eq!(of(&["deflate"]), Ok(Some(Encoding::Deflate)));
        for (several, named) in
            [(vec!["br"], "\"br\""), (vec!["gzip, gzip"], "gzip, gzip"), (vec!["gzip", "zstd"], "gzip, zstd")]
        {
            assert!(of(&several).unwrap_err().contains(named));
        }
    }

    #[tokio::test]
    async fn photos_and_events_stay_as_they_are() {
        let long = |kind: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], "x".repeat(5000)) });
        let routes = Router::new()
            .route("/json", long("application/json"))
            .route("/photo", long("image/jpeg"))
            .route("/events", long("text/event-stream"))
            .layer(answers());
        for (path, encoding) in [("/json", Some("gzip")), ("/photo", None), ("/events", None)] {
            let request = Request::get(path).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
            let Ok(answer) = TowerToHyperService::new(routes.clone()).call(request).await;
            let given = answer.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!(given, encoding, "{path}");
        }
    }
}
