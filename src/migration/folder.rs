//! Folders of photos: one folder for each person, or all in one, where names of files say who it is.

use std::path::Path;

use super::MigrationError;
use super::item::{Content, Item, Refusal, Source, derived_id};
use crate::gallery::Metadata;
use crate::types::Name;
use crate::walk::{self, Found};

/// How folders lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A folder for each person, named after them.
    Folders,
    /// The stem of a file's name is the person's, but for a number at its end.
    Flat,
}

/// The photos of a folder. What may have been meant as a photo and is none is refused; what lies beside is passed over.
pub fn folder(root: &Path, layout: Layout, gallery: &Name) -> Result<Source, MigrationError> {
    let unreadable = |source| MigrationError::Read { path: root.to_owned(), source };
    let items: Vec<Item> = match layout {
        Layout::Folders => {
            let found = walk::folder(root).map_err(unreadable)?;
            found.into_iter().filter_map(|found| in_folders(root, gallery, found)).collect()
        }
        Layout::Flat => {
            let mut names: Vec<_> = std::fs::read_dir(root)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
                .map_err(unreadable)?;
            names.sort();
            names.iter().filter_map(|path| flat(root, gallery, path)).collect()
        }
    };
    if items.is_empty() {
        let reason = match layout {
            Layout::Folders => {
                "it has no photos: it needs one folder for each person, with their photos in it (NAME/photo.jpg)"
            }
            Layout::Flat => "it has no photos (NAME.jpg or NAME_0001.jpg)",
        };
        return Err(MigrationError::File { path: root.to_owned(), reason: reason.to_owned() });
    }
    Ok(Source::of(items))
}

fn in_folders(root: &Path, gallery: &Name, found: Found<std::path::PathBuf>) -> Option<Item> {
    let Found { key, path, photo } = found;
    let (subject, content) = match photo {
        Ok(subject) => (subject.to_string(), Ok(key.clone())),
        Err(why) if why.may_be_meant() => (String::new(), Err(Refusal::new(why.code(), why.to_string()))),
        Err(_) => return None,
    };
    // A folder that is moved elsewhere stays the same folder.
    let identity = key.strip_prefix(root).map_or(path, |within| within.to_string_lossy().into_owned());
    Some(item(gallery, subject, identity, content.map(Content::PhotoFile)))
}

fn flat(root: &Path, gallery: &Name, path: &Path) -> Option<Item> {
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    if name.starts_with('.') || !path.is_file() {
        return None;
    }
    let subject = person_of_file(&name);
    Some(item(gallery, subject, name, Ok(Content::PhotoFile(path.to_owned()))))
}

fn item(gallery: &Name, subject: String, identity: String, content: Result<Content, Refusal>) -> Item {
    let id = derived_id("folder", gallery, &subject, &identity);
    let metadata = Metadata::default();
    Item { gallery: gallery.clone(), subject, id, identity, content, metadata, created_at: None }
}

/// Whom a file is named after: `Ada_Lovelace_0002.jpg` after Ada_Lovelace.
pub(super) fn person_of_file(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    match stem.rsplit_once('_') {
        Some((person, number))
            if !person.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            person.to_owned()
        }
        _ => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_at_the_end_is_not_of_the_name() {
        for (file, person) in [
            ("Ada_Lovelace_0002.jpg", "Ada_Lovelace"),
            ("Ada Lovelace.JPG", "Ada Lovelace"),
            ("Ada_1.5.png", "Ada_1.5"),
            ("_7.jpg", "_7"),
            ("agent_007x.jpg", "agent_007x"),
            ("Ada_", "Ada_"),
        ] {
            assert_eq!(person_of_file(file), person, "{file}");
        }
    }
}
