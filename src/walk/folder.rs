//! The files of a folder on a disk.

use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use super::{Entry, Found, Why, is_system_name, sort};

/// Says of everything in a folder whose photo it is. Links are followed, but for those that lead back to where they came from.
pub fn folder(root: &Path) -> io::Result<Vec<Found<PathBuf>>> {
    let mut walk = Walk { root, entries: Vec::new(), around: vec![root.canonicalize()?] };
    walk.read(root)?;
    Ok(sort(walk.entries))
}

struct Walk<'a> {
    root: &'a Path,
    entries: Vec<Entry<PathBuf>>,
    /// The folders that are being read, each within the one before, as they are without links.
    around: Vec<PathBuf>,
}

impl Walk<'_> {
    fn read(&mut self, folder: &Path) -> io::Result<()> {
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // A link that leads nowhere has no kind.
            match std::fs::metadata(&path).map(|metadata| metadata.file_type()) {
                Ok(kind) if kind.is_dir() => self.enter(path)?,
                kind => self.add(path, kind.ok()),
            }
        }
        Ok(())
    }

    /// A hidden folder is told as one entry, whatever it holds.
    fn enter(&mut self, path: PathBuf) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(b".") || std::str::from_utf8(name).is_ok_and(is_system_name) {
            self.add(path, None);
            return Ok(());
        }
        let true_path = path.canonicalize()?;
        if self.around.contains(&true_path) {
            self.add(path, None);
            return Ok(());
        }
        self.around.push(true_path);
        self.read(&path)?;
        self.around.pop();
        Ok(())
    }

    fn add(&mut self, path: PathBuf, kind: Option<FileType>) {
        let relative = path.strip_prefix(self.root).unwrap_or(&path);
        let parts: Option<Vec<String>> = relative.iter().map(|part| part.to_str().map(str::to_owned)).collect();
        let shown = match path.to_str() {
            Some(shown) => shown.to_owned(),
            None => path.as_os_str().as_encoded_bytes().escape_ascii().to_string(),
        };
        let is_hidden = |parts: &[String]| parts.iter().any(|part| part.starts_with('.') || is_system_name(part));
        let parts = match parts {
            None => Err(Why::UnreadableName),
            Some(parts) if !kind.is_some_and(|kind| kind.is_file()) && !is_hidden(&parts) => Err(Why::NoFile),
            Some(parts) => Ok(parts),
        };
        self.entries.push(Entry { key: path, path: shown, parts });
    }
}
