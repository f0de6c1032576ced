//! Whose photos a folder or an archive holds: one rule for `faceid enroll`, `evaluate`, `train` and data sets.
//!
//! A file in a folder is a photo of whoever the folder is named after. If all folders lie in one that has no photo itself, that
//! one is looked into instead. Of everything else it is said why it was left out, but for files that systems put everywhere,
//! which nobody means to send: those are passed over.

mod folder;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{InvalidValue, Name};

pub use self::folder::folder;

/// A file that was found, and where the reader finds it again.
#[derive(Debug, Clone, PartialEq)]
pub struct Found<K> {
    pub key: K,
    /// As it is shown to people.
    pub path: String,
    /// Whom it shows, or why it was left out.
    pub photo: Result<Name, Why>,
}

/// Why a file was left out.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// It lies beside the folders of people.
    BesideFolders,
    /// It lies in a folder within a person's, so nobody knows whether it is a photo of theirs.
    NestedFolder,
    /// Its name, or that of a folder around it, begins with a dot.
    Hidden,
    /// Its name or that of its folder is none that anybody can have.
    InvalidName(InvalidValue),
    /// It has `..` in its path.
    StepUp,
    /// The bytes of its name are no UTF-8, and nobody knows in which character set they are.
    UnreadableName,
    /// It is neither a file nor a folder.
    NoFile,
}

impl Why {
    /// Stable and machine-readable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BesideFolders => "beside_folders",
            Self::NestedFolder => "nested_folder",
            Self::Hidden => "hidden",
            Self::InvalidName(_) | Self::StepUp => "invalid_name",
            Self::UnreadableName => "unreadable_name",
            Self::NoFile => "no_file",
        }
    }

    /// Whether somebody's photo may have been meant. A note beside the folders and what is hidden lie there on purpose.
    pub fn may_be_meant(&self) -> bool {
        !matches!(self, Self::BesideFolders | Self::Hidden)
    }

    /// Whether it is for the name alone.
    pub fn is_name(&self) -> bool {
        matches!(self, Self::InvalidName(_) | Self::UnreadableName)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BesideFolders => f.write_str("it lies beside the folders of people"),
            Self::NestedFolder => f.write_str("it lies in a folder within a person's"),
            Self::Hidden => f.write_str("it is hidden"),
            Self::InvalidName(reason) => reason.fmt(f),
            Self::StepUp => f.write_str("its path leads out of its folder"),
            Self::UnreadableName => f.write_str("its name is not UTF-8"),
            Self::NoFile => f.write_str("it is no file"),
        }
    }
}

/// A file that was left out, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub path: String,
    /// Stable and machine-readable.
    pub code: String,
    pub reason: String,
    /// [`Why::may_be_meant`].
    #[serde(skip)]
    pub may_be_meant: bool,
}

impl LeftOut {
    pub fn new(path: String, why: &Why) -> Self {
        Self { path, code: why.code().to_owned(), reason: why.to_string(), may_be_meant: why.may_be_meant() }
    }
}

/// A file to say whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<K> {
    key: K,
    path: String,
    /// The names that the path is made of.
    parts: Result<Vec<String>, Why>,
}

impl<K> Entry<K> {
    /// A file of an archive; its path has either kind of slash.
    pub fn of_archive(key: K, path: String) -> Self {
        let parts = path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".");
        let parts = Ok(parts.map(str::to_owned).collect());
        Self { key, path, parts }
    }

    /// A file whose path no text can be made of; `shown` tells it all the same.
    pub fn unreadable(key: K, shown: String) -> Self {
        Self { key, path: shown, parts: Err(Why::UnreadableName) }
    }
}

/// Says of each file whose photo it is: photos first, by person and path, then what was left out.
pub fn sort<K>(entries: impl IntoIterator<Item = Entry<K>>) -> Vec<Found<K>> {
    let entries: Vec<Entry<K>> = entries.into_iter().filter(|entry| !is_of_system(entry)).collect();
    let skipped = usize::from(has_top(entries.iter().filter_map(seen)));
    let mut found: Vec<Found<K>> = entries
        .into_iter()
        .map(|entry| {
            let photo = entry.parts.and_then(|parts| person(&parts, skipped));
            Found { key: entry.key, path: entry.path, photo }
        })
        .collect();
    found.sort_by(|a, b| place(a).cmp(&place(b)));
    found
}

fn place<K>(found: &Found<K>) -> (bool, &str, &str) {
    match &found.photo {
        Ok(person) => (false, person.as_str(), &found.path),
        Err(_) => (true, "", &found.path),
    }
}

/// Whose photo a file is, by the names of its path.
fn person(parts: &[String], skipped: usize) -> Result<Name, Why> {
    if parts.iter().any(|part| part == "..") {
        return Err(Why::StepUp);
    }
    if parts.iter().any(|part| part.starts_with('.')) {
        return Err(Why::Hidden);
    }
    match parts.get(skipped..).unwrap_or_default() {
        [] | [_] => Err(Why::BesideFolders),
        [person, file] => {
            let name = Name::try_from(person.clone()).map_err(Why::InvalidName)?;
            Name::try_from(file.clone()).map_err(Why::InvalidName)?;
            Ok(name)
        }
        _ => Err(Why::NestedFolder),
    }
}

/// The parts of a path that says something of how the folders lie.
fn seen<K>(entry: &Entry<K>) -> Option<&[String]> {
    let parts = entry.parts.as_ref().ok()?;
    parts.iter().all(|part| !part.starts_with('.')).then_some(parts)
}

/// Whether all folders lie in one that is nobody's: no photo lies in it.
fn has_top<'a>(files: impl Iterator<Item = &'a [String]>) -> bool {
    let mut in_folders = files.filter(|parts| parts.len() > 1).peekable();
    let Some(top) = in_folders.peek().map(|parts| &parts[0]) else { return false };
    let mut is_deep = false;
    in_folders.all(|parts| {
        is_deep |= parts.len() > 2;
        parts[0] == *top && (parts.len() > 2 || !is_named_as_photo(&parts[1]))
    }) && is_deep
}

/// Whether a file is called what photos are called.
fn is_named_as_photo(name: &str) -> bool {
    const ENDINGS: [&str; 14] =
        ["jpg", "jpeg", "png", "webp", "heic", "heif", "bmp", "gif", "tif", "tiff", "pgm", "ppm", "pnm", "avif"];
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

fn is_of_system<K>(entry: &Entry<K>) -> bool {
    entry.parts.as_ref().is_ok_and(|parts| parts.iter().any(|part| is_system_name(part)))
}

/// What macOS, Windows and network storage put into every folder.
fn is_system_name(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        ".ds_store",
        "__macosx",
        ".appledouble",
        ".spotlight-v100",
        ".trashes",
        ".fseventsd",
        ".localized",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "@eadir",
    ];
    name.starts_with("._") || NAMES.iter().any(|system| name.eq_ignore_ascii_case(system))
}
