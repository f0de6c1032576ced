//! A table of photos: CSV with a header, a line for each photo.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use csv::{ReaderBuilder, StringRecord};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::MigrationError;
use super::item::{Content, Item, Refusal, Source, derived_id};
use crate::gallery::Metadata;
use crate::types::{FaceId, Name};

/// Where the columns are that a header names.
struct Columns {
    subject: usize,
    photo: usize,
    gallery: Option<usize>,
    metadata: Option<usize>,
    created_at: Option<usize>,
    id: Option<usize>,
}

impl Columns {
    fn of(header: &StringRecord) -> Result<Self, String> {
        let mut columns = [None; 6];
        let names = ["subject", "photo", "gallery", "metadata", "created_at", "id"];
        for (at, name) in header.iter().enumerate() {
            let known = names.iter().position(|known| *known == name.trim());
            let known =
                known.ok_or_else(|| format!("nobody knows the column {name:?}; there are {}", names.join(", ")))?;
            if columns[known].replace(at).is_some() {
                return Err(format!("the column {name:?} is there twice"));
            }
        }
        let [subject, photo, gallery, metadata, created_at, id] = columns;
        let (Some(subject), Some(photo)) = (subject, photo) else {
            return Err("its first line must name the columns, `subject` and `photo` among them".to_owned());
        };
        Ok(Self { subject, photo, gallery, metadata, created_at, id })
    }
}

/// What the lines of a table say. Paths are looked for from where the table is; `gallery` is for lines that name none.
pub fn table(path: &Path, gallery: &Name) -> Result<Source, MigrationError> {
    let bad = |reason: String| MigrationError::File { path: path.to_owned(), reason };
    let opened = ReaderBuilder::new().flexible(true).from_path(path);
    let mut reader = opened.map_err(|error| bad(error.to_string()))?;
    let columns = Columns::of(reader.headers().map_err(|error| bad(error.to_string()))?).map_err(bad)?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut items = Vec::new();
    for (number, record) in reader.records().enumerate() {
        match record {
            Ok(record) => items.push(item(&record, &columns, &folder, gallery)),
            Err(error) if error.is_io_error() => return Err(bad(error.to_string())),
            Err(error) => {
                let identity = format!("record {}", number + 1);
                items.push(refused(gallery, String::new(), identity, Refusal::new("invalid_line", error.to_string())));
            }
        }
    }
    Ok(Source::of(items))
}

fn refused(gallery: &Name, subject: String, identity: String, why: Refusal) -> Item {
    let id = derived_id("csv", gallery, &subject, &identity);
    let metadata = Metadata::default();
    Item { gallery: gallery.clone(), subject, id, identity, content: Err(why), metadata, created_at: None }
}

fn item(record: &StringRecord, columns: &Columns, folder: &Path, default: &Name) -> Item {
    let get = |at: usize| record.get(at).unwrap_or_default();
    // What is empty says nothing.
    let said = |at: Option<usize>| at.map(get).map(str::trim).filter(|text| !text.is_empty());
    let (subject, photo) = (get(columns.subject).to_owned(), get(columns.photo).trim().to_owned());
    let read = || {
        let gallery = match said(columns.gallery) {
            Some(name) => {
                Name::try_from(name.to_owned()).map_err(|error| Refusal::new("invalid_gallery", error.to_string()))?
            }
            None => default.clone(),
        };
        let id = match said(columns.id) {
            Some(text) => face_id(text)?,
            None => derived_id("csv", &gallery, &subject, &photo),
        };
        let metadata = said(columns.metadata).map_or_else(|| Ok(Metadata::default()), metadata)?;
        let created_at = said(columns.created_at).map(time).transpose()?;
        let content = Content::PhotoFile(local(&photo, folder)?);
        let (subject, identity) = (subject.clone(), photo.clone());
        Ok(Item { gallery, subject, id, identity, content: Ok(content), metadata, created_at })
    };
    read().unwrap_or_else(|why| refused(default, subject.clone(), photo.clone(), why))
}

/// The nil UUID would be missed by lists, which begin after it.
fn face_id(text: &str) -> Result<FaceId, Refusal> {
    let id = Uuid::try_parse(text).ok().filter(|id| !id.is_nil());
    id.map(FaceId).ok_or_else(|| Refusal::new("invalid_id", format!("{text:?} is no UUID")))
}

fn metadata(text: &str) -> Result<Metadata, Refusal> {
    let refuse = |reason: String| Refusal::new("invalid_metadata", reason);
    let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    Metadata::try_from(value).map_err(|error| refuse(error.to_string()))
}

fn time(text: &str) -> Result<DateTime<Utc>, Refusal> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    time.map_err(|_| Refusal::new("invalid_time", format!("{text:?} is no time such as 2030-01-31T12:00:00Z")))
}

/// A path, or a URL of a file of this machine.
fn local(photo: &str, folder: &Path) -> Result<PathBuf, Refusal> {
    if photo.is_empty() {
        return Err(Refusal::new("no_file", "the line names no photo"));
    }
    // `C:` may be a drive.
    let Some((scheme, _)) = photo.split_once("://") else { return Ok(folder.join(photo)) };
    let path = Url::parse(photo).ok().filter(|_| scheme.eq_ignore_ascii_case("file"));
    let path = path.and_then(|url| url.to_file_path().ok());
    path.ok_or_else(|| Refusal::new("not_local", "only files of this machine are read; fetch it first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(header: &[&str]) -> Result<Columns, String> {
        Columns::of(&StringRecord::from(header.to_vec()))
    }

    #[test]
    fn a_header_names_columns_in_any_order() {
        assert!(
            columns(&["photo", "id", " subject "]).is_ok_and(|columns| columns.subject == 2 && columns.id == Some(1))
        );
        for (header, part) in [
            (&["subject", "path"][..], "nobody knows the column \"path\""),
            (&["subject"], "`subject` and `photo`"),
            (&["subject", "photo", "photo"], "there twice"),
        ] {
            assert!(columns(header).is_err_and(|reason| reason.contains(part)), "{header:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_by_a_code() {
        let columns = columns(&["subject", "photo", "gallery", "metadata", "created_at", "id"]).unwrap();
        let default = Name::try_from("default".to_owned()).unwrap();
        let read = |line: &[&str]| item(&StringRecord::from(line.to_vec()), &columns, Path::new("/in"), &default);
        let code = |line: &[&str]| read(line).content.err().map(|why| why.code);
        for (line, expected) in [
            (&["Ada", "1.jpg", "", "", "", ""][..], None),
            (&["Ada", "1.jpg"], None),
            (&["Ada", "file:///in/a%20b.jpg"], None),
            (&["Ada", "https://example.org/1.jpg"], Some("not_local")),
            (&["Ada", "s3://bucket/1.jpg"], Some("not_local")),
            (&["Ada", ""], Some("no_file")),
            (&["Ada", "1.jpg", "\u{7}"], Some("invalid_gallery")),
            (&["Ada", "1.jpg", "", "[1]"], Some("invalid_metadata")),
            (&["Ada", "1.jpg", "", "{\"badge\": 7}"], None),
            (&["Ada", "1.jpg", "", "", "yesterday"], Some("invalid_time")),
            (&["Ada", "1.jpg", "", "", "", "7"], Some("invalid_id")),
            (&["Ada", "1.jpg", "", "", "", "00000000-0000-0000-0000-000000000000"], Some("invalid_id")),
        ] {
            assert_eq!(code(line), expected, "{line:?}");
        }
        let Ok(Content::PhotoFile(path)) = read(&["Ada", "file:///in/a%20b.jpg"]).content else { panic!("no file") };
        assert_eq!(path, Path::new("/in/a b.jpg"));
        let full = read(&["Ada", "1.jpg", "guests", "{\"badge\": 7}", "2020-01-31T12:00:00+01:00", ""]);
        assert_eq!((full.gallery.as_str(), full.metadata.as_object()["badge"].as_i64()), ("guests", Some(7)));
        assert_eq!(full.created_at.unwrap().to_rfc3339(), "2020-01-31T11:00:00+00:00");
        assert_ne!(full.id, read(&["Ada", "1.jpg"]).id);
    }
}
