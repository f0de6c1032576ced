//! Reads the images of a request, from a form or from JSON with base64, and its parameters. What is unknown is passed over.

use std::borrow::Cow;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::Deserialize;

use super::failure::Failure;
use super::options::Parameters;
use crate::http::body::{self, BodyBudget, Share};
use crate::http::form::{self, JSON_COPIES, LONGEST_FIELD};
use crate::http::multipart::Multipart;
use crate::http::problem::{Code, Problem};
use crate::http::state::AppState;
use crate::service::requests::FileBytes;

/// How the name of an image's file ends, in any letter case.
const ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp", "ico"];

/// Extracts `N` images, 1 or 2, and the parameters that came with them.
pub struct Images<const N: usize> {
    pub parameters: Parameters,
    sent: [Sent; N],
}

/// An image as it came.
struct Sent {
    content: Result<Bytes, Failure>,
    /// What its file is called; JSON has no files.
    file_name: Option<String>,
}

/// A JSON body with images.
#[derive(Deserialize)]
struct InJson<'a> {
    #[serde(borrow, default)]
    file: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    source_image: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    target_image: Option<Cow<'a, str>>,
}

/// What a body holds, by name.
#[derive(Default)]
struct Received {
    files: Vec<(&'static str, Sent)>,
    texts: Vec<(String, String)>,
    is_json: bool,
}

impl<const N: usize> Images<N> {
    const NAMES: &'static [&'static str] = match N {
        1 => &["file"],
        _ => &["source_image", "target_image"],
    };

    /// The images, in the order of their names; fails if one is none by its name or its text.
    pub fn open(self) -> Result<[FileBytes; N], Failure> {
        if let Some(name) = self.sent.iter().filter_map(|sent| sent.file_name.as_deref()).find(|name| !is_image(name)) {
            let message = format!("{name:?} is no name of an image: it has to end in one of {}", ENDINGS.join(", "));
            return Err(Failure::no_image_file(message));
        }
        let mut opened = Vec::with_capacity(N);
        for sent in self.sent {
            opened.push(FileBytes(sent.content?));
        }
        opened.try_into().map_err(|_| Problem::internal("an image was lost").into())
    }
}

fn is_image(file_name: &str) -> bool {
    let ending = file_name.rsplit_once('.').map(|(_, ending)| ending);
    ending.is_some_and(|ending| ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

impl<const N: usize> FromRequest<AppState> for Images<N> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Failure> {
        state.check_room()?;
        let time = state.request_timeout;
        let receiving = receive(request, Self::NAMES, (state.max_body_bytes, state.body_budget.clone()));
        let (parameters, received) =
            tokio::time::timeout(time, receiving).await.map_err(|_| form::too_slow(time))??;
        let mut files = received.files;
        let mut sent = Vec::with_capacity(N);
        for name in Self::NAMES {
            let place = files.iter().position(|(known, _)| known == name);
            let place = place.ok_or_else(|| match received.is_json {
                true => Failure::missing_field(name),
                false => Failure::missing_part(name),
            })?;
            sent.push(files.swap_remove(place).1);
        }
        let sent = sent.try_into().map_err(|_| Problem::internal("an image was lost"))?;
        Ok(Self { parameters, sent })
    }
}

async fn receive(
    request: Request,
    names: &'static [&'static str],
    (limit, budget): (usize, BodyBudget),
) -> Result<(Parameters, Received), Failure> {
    let (mut parts, body) = request.into_parts();
    let mut parameters = Parameters::of_query(&mut parts).await?;
    body::refuse_declared_length(parts.headers.get(header::CONTENT_LENGTH), limit as u64)?;
    let share = Share::default();
    let body = body::counted(body::limited(body, limit as u64), budget.clone(), share.clone());
    let received = match form::media_type(&parts.headers).as_str() {
        "multipart/form-data" => from_form(Multipart::new(&parts.headers, body)?, names, &share).await?,
        "application/json" => from_json(body, budget, share).await?,
        other => {
            let expected = "multipart/form-data or application/json";
            return Err(form::unsupported_media_type(other, expected).into());
        }
    };
    parameters.0.extend(received.texts.iter().cloned());
    Ok((parameters, received))
}

async fn from_form(mut form: Multipart, names: &'static [&'static str], share: &Share) -> Result<Received, Failure> {
    let mut received = Received::default();
    while let Some(name) = form.next_part().await? {
        if let Some(known) = names.iter().find(|known| **known == name) {
            let file_name = form.file_name().map(str::to_owned);
            let bytes = form.all_bytes(usize::MAX).await?.unwrap_or_default();
            received.files.push((known, Sent { content: Ok(share.attach(bytes)), file_name }));
        } else if form.file_name().is_none()
            && let Some(bytes) = form.all_bytes(LONGEST_FIELD).await?
            && let Ok(text) = String::from_utf8(bytes.into())
        {
            received.texts.push((name, text));
        }
    }
    Ok(received)
}

async fn from_json(body: Body, budget: BodyBudget, share: Share) -> Result<Received, Failure> {
    let bytes = body::read_all(body).await?;
    let length = bytes.len();
    // Images are decoded from base64 while their text is still there.
    share.grow_to(&budget, JSON_COPIES * bytes.len())?;
    let read = move || {
        let InJson { file, source_image, target_image } =
            serde_json::from_slice(crate::types::bytes_without_mark(&bytes)).map_err(|error| {
                Problem::new(Code::MalformedJson, format!("the body is not a JSON object as it should be: {error}"))
            })?;
        let given = [("file", file), ("source_image", source_image), ("target_image", target_image)];
        let copied = given.iter().filter_map(|(_, text)| text.as_ref()).map(form::copied).sum::<usize>();
        share.grow_to(&budget, JSON_COPIES * bytes.len() + copied)?;
        let files = given.into_iter().filter_map(|(name, text)| {
            let decoded = form::decode_base64(&text?);
            let content = decoded.map(|bytes| share.attach(bytes));
            let content = content.map_err(|error| Failure::no_image_file(format!("{name}: {error}")));
            Some((name, Sent { content, file_name: None }))
        });
        Ok(Received { files: files.collect(), texts: Vec::new(), is_json: true })
    };
    Ok(form::aside(length, read).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_images_by_their_names() {
        for name in ["a.jpg", "A.JPEG", "b.c.PNG", "x.webp", "me.ico"] {
            assert!(is_image(name), "{name}");
        }
        for name in ["a", "jpg", "a.jpg.exe", "a.heic", ""] {
            assert!(!is_image(name), "{name}");
        }
    }
}
