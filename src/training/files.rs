//! Files that are either whole or absent.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::TrainingError;

/// Writes a file so that a crash leaves the former one or this one, never a part.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), TrainingError> {
    let failed = |source| TrainingError::Io { action: "write", path: path.to_owned(), source };
    let part = part_of(path);
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        // The new name lasts only once the folder does.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

/// Fails if [`write_atomically`] could not write `path`.
pub fn check_writable(path: &Path) -> Result<(), TrainingError> {
    let part = part_of(path);
    let tried = File::create(&part).and_then(|_| fs::remove_file(&part));
    tried.map_err(|source| TrainingError::Io { action: "write", path: path.to_owned(), source })
}

/// What a file is called while it is written.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}
