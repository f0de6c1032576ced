//! Folders with one folder for each person, as every command reads them.

use std::path::{Path, PathBuf};

use super::CliError;
use crate::types::Name;
use crate::walk::{self, Found, LeftOut};

/// Files that were left out and are told one by one; of more, only the number is said.
const TOLD: usize = 20;

/// What a folder holds.
#[derive(Debug, Default)]
pub struct People {
    /// By person.
    pub photos: Vec<(Name, PathBuf)>,
    pub left_out: Vec<LeftOut>,
}

/// The photos of a folder; none is an error, which says what lies there instead.
pub fn read(folder: &Path) -> Result<People, CliError> {
    let shown = folder.display();
    if !folder.is_dir() {
        return Err(CliError::Usage(format!("{shown} is not a folder")));
    }
    let mut people = People::default();
    for Found { key, path, photo } in walk::folder(folder).map_err(CliError::io(format!("cannot read {shown}")))? {
        match photo {
            Ok(person) => people.photos.push((person, key)),
            Err(why) => people.left_out.push(LeftOut::new(path, &why)),
        }
    }
    if people.photos.is_empty() {
        tell(&people.left_out);
        return Err(CliError::Usage(format!(
            "{shown} has no photos: it needs one folder for each person, with their photos in it (NAME/photo.jpg)"
        )));
    }
    Ok(people)
}

/// Says on standard error what was left out.
pub fn tell(left_out: &[LeftOut]) {
    for LeftOut { path, reason, .. } in left_out.iter().take(TOLD) {
        eprintln!("left out: {path}: {reason}");
    }
    if let Some(more @ 1..) = left_out.len().checked_sub(TOLD) {
        eprintln!("left out: {more} more files");
    }
}
