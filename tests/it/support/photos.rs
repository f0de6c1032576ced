//! The photos that recognition is measured on. They are not part of the project: `FACEID_TEST_DATA` says where they
//! are, `../shared/data` beside the checkout by default. Tests that need them are ignored by name
//! (`#[ignore = "needs the test photos"]`); `make test` includes them where the photos are, and under CI always: one that
//! is run without its photos fails.

use std::path::{Path, PathBuf};

/// The folder `name` of the test data.
pub fn folder(name: &str) -> PathBuf {
    let root = std::env::var_os("FACEID_TEST_DATA")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let folder = root.join(name);
    assert!(folder.is_dir(), "there is no {}; FACEID_TEST_DATA says where the test photos are", folder.display());
    folder
}

/// A photo of someone in `lfw100`, by number from 1.
pub fn lfw(person: &str, number: usize) -> Vec<u8> {
    let path = folder("lfw100").join(person).join(format!("{person}_{number:04}.jpg"));
    read(&path)
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of a folder, sorted by name.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A folder with one folder per person: the name of each person and their photos, sorted.
pub fn people(folder: &Path) -> Vec<(String, Vec<PathBuf>)> {
    let named = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), files(&path));
    files(folder).into_iter().map(named).collect()
}
