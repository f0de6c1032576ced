//! A ZIP archive as a data set. Nothing that it says of itself is believed, and nothing of it is unpacked to a disk.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zip::read::{ArchiveOffset, Config, ZipFileEntry};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::people::{PhotoPath, photos};
use super::unstored;
use crate::blobs::BlobError;
use crate::service::ServiceError;
use crate::vision;

/// Entries of an archive at most, and bytes of the list of them.
const MOST_ENTRIES: usize = 200_000;
const LONGEST_LIST: u64 = 64 << 20;

/// Bytes of a file that say whether it is an image.
const START: u64 = 64;

/// Why a photo of an archive cannot be had.
#[derive(Debug)]
pub(super) enum Unreadable {
    Damaged,
    TooLarge,
    /// The store does not give it at present.
    Store(ServiceError),
}

/// An archive with a folder of photos for each person.
pub(super) struct Archive<R> {
    zip: ZipArchive<Sparing<R>>,
    photos: Vec<PhotoPath>,
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the list of what is in it; none or too long a one is an error.
    pub(super) fn open(reader: R) -> Result<Self, ServiceError> {
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let left = Arc::new(AtomicU64::new(LONGEST_LIST));
        let zip = ZipArchive::with_config(config, Sparing { reader, left: Arc::clone(&left) }).map_err(no_archive)?;
        left.store(u64::MAX, Ordering::Relaxed);
        if zip.len() > MOST_ENTRIES {
            return Err(too_many());
        }
        let mut files = Vec::with_capacity(zip.len());
        for index in 0..zip.len() {
            let entry = zip.by_index_data(index).map_err(no_archive)?;
            if entry.encrypted() {
                return Err(invalid("the archive is encrypted"));
            }
            if entry.is_file() {
                files.push((index, path(&entry)));
            }
        }
        Ok(Self { zip, photos: photos(files) })
    }

    /// Refuses an archive of whose photos none can be read, as far as can be told without looking at all of them.
    pub(super) fn check(&mut self) -> Result<(), ServiceError> {
        for photo in &self.photos {
            let entry = self.zip.by_index_data(photo.index).map_err(no_archive)?;
            if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
                let method = entry.compression();
                return Err(invalid(&format!("it has files that are compressed by {method}, deflate is expected")));
            }
        }
        for number in (0..self.photos.len()).filter(|number| !self.photos[*number].nested).collect::<Vec<_>>() {
            match self.read_up_to(number, START) {
                Ok(start) if vision::is_image(&start) => return Ok(()),
                Err(Unreadable::Store(error)) => return Err(error),
                _ => {}
            }
        }
        let layout = "one folder for each person, with their photos in it (NAME/photo.jpg), is expected";
        Err(match self.photos.iter().find(|photo| photo.nested) {
            None => invalid(&format!("it has no folder with a photo in it; {layout}")),
            Some(PhotoPath { path, .. }) => invalid(&format!("its photos lie too deep, as {path}; {layout}")),
        })
    }

    /// The photos, by person. Their number in this list is what [`Self::read`] wants.
    pub(super) fn photos(&self) -> &[PhotoPath] {
        &self.photos
    }

    /// A photo of `most` bytes at most.
    pub(super) fn read(&mut self, number: usize, most: usize) -> Result<Vec<u8>, Unreadable> {
        // What it says of its size may be wrong.
        let bytes = self.read_up_to(number, most as u64 + 1)?;
        if bytes.len() > most { Err(Unreadable::TooLarge) } else { Ok(bytes) }
    }

    fn read_up_to(&mut self, number: usize, most: u64) -> Result<Vec<u8>, Unreadable> {
        let index = self.photos.get(number).ok_or(Unreadable::Damaged)?.index;
        let entry = self.zip.by_index(index).map_err(unreadable)?;
        let mut bytes = Vec::new();
        entry.take(most).read_to_end(&mut bytes).map_err(|error| unreadable(error.into()))?;
        Ok(bytes)
    }
}

/// Many programs write UTF-8 without saying so.
fn path(entry: &ZipFileEntry<'_>) -> String {
    match std::str::from_utf8(entry.name_raw()) {
        Ok(path) => path.to_owned(),
        Err(_) => entry.name().map_or_else(|_| String::from_utf8_lossy(entry.name_raw()).into(), String::from),
    }
}

fn unreadable(error: ZipError) -> Unreadable {
    match of_store(error) {
        Ok(error) => Unreadable::Store(unstored(error)),
        Err(_) => Unreadable::Damaged,
    }
}

fn no_archive(error: ZipError) -> ServiceError {
    match of_store(error) {
        Ok(error) => unstored(error),
        Err(ZipError::Io(error)) if error.kind() == ErrorKind::FileTooLarge => too_many(),
        Err(error) => invalid(&format!("no ZIP archive that can be read: {error}")),
    }
}

/// What the store said, if that is the matter.
fn of_store(error: ZipError) -> Result<BlobError, ZipError> {
    match error {
        ZipError::Io(error) => error.downcast().map_err(ZipError::Io),
        error => Err(error),
    }
}

fn too_many() -> ServiceError {
    invalid(&format!("it has more than {MOST_ENTRIES} entries, or their names are too long"))
}

fn invalid(reason: &str) -> ServiceError {
    ServiceError::InvalidDataset(format!("file: {reason}"))
}

/// A reader of which only so much is read: a list of files takes more memory than it is long.
struct Sparing<R> {
    reader: R,
    left: Arc<AtomicU64>,
}

impl<R: Read> Read for Sparing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let left = self.left.load(Ordering::Relaxed);
        if left < u64::MAX {
            let left = left.checked_sub(read as u64).ok_or(ErrorKind::FileTooLarge)?;
            self.left.store(left, Ordering::Relaxed);
        }
        Ok(read)
    }
}

impl<R: Seek> Seek for Sparing<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.reader.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Cursor, Write};

    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::TestRunner;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn zipped(files: &[(&str, &[u8])]) -> Cursor<Vec<u8>> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (path, content) in files {
            zip.start_file(*path, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap()
    }

    fn refused(reader: Cursor<Vec<u8>>) -> String {
        let refused = Archive::open(reader).and_then(|mut archive| archive.check());
        match refused {
            Err(ServiceError::InvalidDataset(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

    #[test]
    fn photos_are_read_and_damage_is_found() {
        let zip = zipped(&[("set/bob/2.png", PNG), ("set/ada/1.png", &[7; 100])]);
        let mut archive = Archive::open(zip.clone()).unwrap();
        archive.check().unwrap();
        assert_eq!(archive.photos().iter().map(|photo| photo.person.as_str()).collect::<Vec<_>>(), ["ada", "bob"]);
        assert_eq!(archive.read(0, 100).unwrap(), [7; 100]);
        assert!(matches!(archive.read(0, 99), Err(Unreadable::TooLarge)));
        assert_eq!(archive.read(1, 100).unwrap(), PNG);
        let mut bytes = zip.into_inner();
        // In the data of the first file, after its header and name.
        bytes[30 + 13 + 8] ^= 0x55;
        let mut archive = Archive::open(Cursor::new(bytes)).unwrap();
        assert!(matches!(archive.read(1, 100), Err(Unreadable::Damaged)));
        assert_eq!(archive.read(0, 100).unwrap().len(), 100);
    }

    #[test]
    fn what_is_no_data_set_is_refused() {
        assert!(refused(Cursor::new(b"no archive".to_vec())).contains("ZIP"));
        assert!(refused(Cursor::new(Vec::new())).contains("ZIP"));
        for files in [vec![], vec![("1.png", PNG)], vec![("ada/1.txt", b"no photo".as_slice())]] {
            assert!(refused(zipped(&files)).contains("no folder with a photo"), "{files:?}");
        }
        let mut encrypted = zipped(&[("ada/1.png", PNG)]).into_inner();
        let list = encrypted.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
        encrypted[list + 8] |= 1;
        assert!(refused(Cursor::new(encrypted)).contains("encrypted"));
    }

    #[test]
    fn too_many_entries_are_refused() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for number in 0..=MOST_ENTRIES {
            zip.start_file(format!("a/{number}"), options).unwrap();
        }
        assert!(refused(zip.finish().unwrap()).contains("more than 200000"));
        let mut long = Sparing { reader: Cursor::new(vec![0; 3]), left: Arc::new(AtomicU64::new(2)) };
        assert!(long.read_to_end(&mut Vec::new()).unwrap_err().kind() == ErrorKind::FileTooLarge);
    }

    /// Damage to the data of a file or to the list of files, of which a share must get as far as a photo.
    #[test]
    fn no_damage_panics() {
        const CASES: u32 = 1000;
        let files = [("ada/1.png", PNG), ("ada/2.png", &[7; 300]), ("bob/1.png", PNG)];
        let whole = zipped(&files).into_inner();
        let damage = proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4);
        let cut = proptest::option::weighted(0.1, any::<Index>());
        let (opened, read, damaged) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
        let run = TestRunner::new(config).run(&(damage, cut), |(damage, cut)| {
            let mut bytes = whole.clone();
            damage.iter().for_each(|(at, byte)| bytes[at.index(whole.len())] = *byte);
            bytes.truncate(cut.map_or(whole.len(), |cut| cut.index(whole.len())));
            let Ok(mut archive) = Archive::open(Cursor::new(bytes)) else { return Ok(()) };
            opened.set(opened.get() + 1);
            let _ = archive.check();
            for number in 0..archive.photos().len() {
                let count = if archive.read(number, 1000).is_ok() { &read } else { &damaged };
                count.set(count.get() + 1);
            }
            Ok(())
        });
        run.unwrap();
        println!("of {CASES}, {} were opened; {} photos read, {} not", opened.get(), read.get(), damaged.get());
        assert!(opened.get() > CASES / 3 && read.get() > CASES / 3 && damaged.get() > CASES / 20);
    }
}
