//! The pages of docs/, as they were when the server was built: GET /docs/.

use std::fmt::Write as _;
use std::path::Path as FilePath;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

use super::problem::{Code, Problem};

/// A page or a picture: its file in the repository.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../", $path)))),*]
    };
}

/// Pages by their files; the first is what `/docs/` shows.
const PAGES: &[(&str, &[u8])] = files![
    "docs/SUMMARY.md",
    "README.md",
    "docs/start.md",
    "docs/accuracy.md",
    "docs/comparison.md",
    "docs/http-api.md",
    "docs/http-reference.md",
    "docs/forms.md",
    "docs/errors.md",
    "docs/decisions.md",
    "docs/duplicates-and-anomalies.md",
    "docs/search.md",
    "docs/clients.md",
    "docs/compreface.md",
    "docs/data-sets.md",
    "docs/migrate.md",
    "docs/operations.md",
    "docs/tls.md",
    "docs/behind-a-proxy.md",
    "docs/limits.md",
    "docs/configuration.md",
    "docs/command-line.md",
    "docs/databases.md",
    "docs/models.md",
    "docs/networks.md",
    "docs/training-and-retraining.md",
    "docs/gpu.md",
    "docs/security.md",
    "docs/privacy.md",
    "docs/erasure.md",
    "docs/audit.md",
    "docs/retention.md",
    "docs/encryption.md",
    "docs/performance.md",
    "docs/development.md",
    "docs/architecture.md",
    "benches/RESULTS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "NOTICE.md",
    "LICENSE",
];

const PICTURES: &[(&str, &[u8])] = files![
    "docs/images/answer.svg",
    "docs/images/fnir-growth.svg",
    "docs/images/modules.svg",
    "docs/images/pipeline.svg",
    "benches/overload.svg",
    "benches/search-growth.svg",
];

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --link: light-dark(#0b5cad, #7db7ff) }
body { margin: 0 auto; max-width: 52rem; padding: 1rem 1.2rem 4rem; font: 1rem/1.55 system-ui, sans-serif }
nav { padding-bottom: .5rem; border-bottom: 1px solid var(--line) }
a { color: var(--link) }
pre { padding: .8rem; overflow-x: auto; border: 1px solid var(--line); border-radius: 6px }
code { font-size: .9em }
table { display: block; overflow-x: auto; border-collapse: collapse }
th, td { padding: .3rem .6rem; border: 1px solid var(--line); text-align: left; vertical-align: top }
img { max-width: 100% }
";

/// The pages as HTML, in their order: made once, since anybody may ask for them.
static RENDERED: LazyLock<Vec<String>> = LazyLock::new(|| PAGES.iter().map(render).collect());

pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(|| async { Html(RENDERED[0].as_str()) }))
        .route("/docs/{page}", get(page))
        .route("/docs/images/{picture}", get(picture))
}

async fn page(Path(name): Path<String>) -> Result<Html<&'static str>, Problem> {
    let place = PAGES.iter().position(|(path, _)| stem(path) == name).ok_or_else(not_found)?;
    Ok(Html(RENDERED[place].as_str()))
}

async fn picture(Path(name): Path<String>) -> Result<Response, Problem> {
    let (_, content) = PICTURES.iter().find(|(path, _)| path.ends_with(&format!("/{name}"))).ok_or_else(not_found)?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], *content).into_response())
}

fn not_found() -> Problem {
    Problem::new(Code::RouteNotFound, "there is no such page; /docs/ lists them")
}

/// The name of a page in its address: that of its file without the ending.
fn stem(path: &str) -> &str {
    FilePath::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or(path)
}

/// A page as HTML, with its first heading as the title.
fn render((path, content): &(&str, &[u8])) -> String {
    let text = String::from_utf8_lossy(content);
    let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or(stem(path));
    let events = linked(Parser::new_ext(&text, Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES));
    let mut body = String::new();
    html::push_html(&mut body, events.into_iter());
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - faceid</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\
         <body><nav><a href=\"./\">Pages</a> · <a href=\"api/\">API reference</a></nav><main>{body}</main></body></html>"
    )
}

/// The parts of a page: links lead to where the server has what they name, headings have the ids that links use, and comments
/// are left out.
fn linked<'a>(parser: Parser<'a>) -> Vec<Event<'a>> {
    let mut events: Vec<Event<'a>> = Vec::new();
    let (mut heading, mut comment) = (None, false);
    for event in parser {
        match event {
            // Pages have no HTML but comments.
            Event::Start(Tag::HtmlBlock) => comment = true,
            Event::End(TagEnd::HtmlBlock) => comment = false,
            _ if comment => {}
            Event::Start(Tag::Heading { level, .. }) => heading = Some((level, events.len())),
            Event::End(TagEnd::Heading(level)) => {
                if let Some((_, start)) = heading.take() {
                    let id = anchor(&events[start..]);
                    events.insert(start, Event::Html(opened(level, &id)));
                }
                events.push(Event::Html(format!("</{level}>\n").into()));
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                events.push(Event::Start(Tag::Link { link_type, dest_url: target(dest_url), title, id }));
            }
            Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                events.push(Event::Start(Tag::Image { link_type, dest_url: target(dest_url), title, id }));
            }
            other => events.push(other),
        }
    }
    events
}

fn opened(level: HeadingLevel, id: &str) -> CowStr<'static> {
    format!("<{level} id=\"{id}\">").into()
}

/// The id of a heading: its words in small letters, joined by dashes.
fn anchor(events: &[Event]) -> String {
    let mut id = String::new();
    for event in events {
        if let Event::Text(text) | Event::Code(text) = event {
            for letter in text.chars().flat_map(char::to_lowercase) {
                match letter {
                    ' ' => id.push('-'),
                    '-' | '_' => id.push(letter),
                    letter if letter.is_alphanumeric() => id.push(letter),
                    _ => {}
                }
            }
        }
    }
    id
}

/// Where a link of a page leads in a server, seen from that page: pages of the repository are side by side in `/docs/`, pictures
/// in a folder there.
fn target(link: CowStr<'_>) -> CowStr<'_> {
    if link.starts_with('#') || link.contains(':') {
        return link;
    }
    let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
    let mut target = String::new();
    let kind = FilePath::new(path).extension().and_then(|ending| ending.to_str());
    let _ = match kind {
        Some("md") => write!(target, "{}", stem(path)),
        Some("svg") => write!(target, "images/{}", path.rsplit('/').next().unwrap_or(path)),
        Some("yaml") => write!(target, "../openapi.json"),
        // The licence.
        _ => write!(target, "{}", stem(path)),
    };
    if !fragment.is_empty() {
        let _ = write!(target, "#{fragment}");
    }
    target.into()
}
