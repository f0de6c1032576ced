//! A ZIP archive as a data set. Nothing that it says of itself is believed, and nothing of it is unpacked to a disk.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::{names, unstored};
use crate::blobs::BlobError;
use crate::service::ServiceError;
use crate::vision;
use crate::walk::{self, Entry, Found, Why};

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
    /// By their place in the archive.
    files: Vec<Found<usize>>,
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
                files.push(match names::path(&entry) {
                    Ok(path) => Entry::of_archive(index, path),
                    Err(shown) => Entry::unreadable(index, shown),
                });
            }
        }
        Ok(Self { zip, files: walk::sort(files) })
    }

    /// Refuses an archive of whose photos none can be read, as far as can be told without looking at all of them.
    pub(super) fn check(&mut self) -> Result<(), ServiceError> {
        for photo in self.files.iter().filter(|file| file.photo.is_ok()) {
            let entry = self.zip.by_index_data(photo.key).map_err(no_archive)?;
            if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
                let method = entry.compression();
                return Err(invalid(&format!("it has files that are compressed by {method}, deflate is expected")));
            }
        }
        // Photos that are left out for their names alone are told one by one, which needs a job.
        let counts = |file: &Found<usize>| file.photo.as_ref().map_or_else(Why::is_name, |_| true);
        for number in (0..self.files.len()).filter(|number| counts(&self.files[*number])).collect::<Vec<_>>() {
            match self.read_up_to(number, START) {
                Ok(start) if vision::is_image(&start) => return Ok(()),
                Err(Unreadable::Store(error)) => return Err(error),
                _ => {}
            }
        }
        let layout = "one folder for each person, with their photos in it (NAME/photo.jpg), is expected";
        Err(match self.files.iter().find(|file| file.photo == Err(Why::NestedFolder)) {
            None => invalid(&format!("it has no folder with a photo in it; {layout}")),
            Some(Found { path, .. }) => invalid(&format!("its photos lie too deep, as {path}; {layout}")),
        })
    }

    /// The photos, by person, and what was left out. Their number in this list is what [`Self::read`] wants.
    pub(super) fn files(&self) -> &[Found<usize>] {
        &self.files
    }

    /// A photo of `most` bytes at most.
    pub(super) fn read(&mut self, number: usize, most: usize) -> Result<Vec<u8>, Unreadable> {
        // What it says of its size may be wrong.
        let bytes = self.read_up_to(number, most as u64 + 1)?;
        if bytes.len() > most { Err(Unreadable::TooLarge) } else { Ok(bytes) }
    }

    fn read_up_to(&mut self, number: usize, most: u64) -> Result<Vec<u8>, Unreadable> {
        let index = self.files.get(number).ok_or(Unreadable::Damaged)?.key;
        let entry = self.zip.by_index(index).map_err(unreadable)?;
        let mut bytes = Vec::new();
        entry.take(most).read_to_end(&mut bytes).map_err(|error| unreadable(error.into()))?;
        Ok(bytes)
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
        assert_eq!(
            archive.files().iter().map(|file| file.photo.as_ref().unwrap().as_str()).collect::<Vec<_>>(),
            ["ada", "bob"]
        );
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

    /// The list of an archive as other programs write it: with the bytes of a name, what made it, and an extra field.
    fn with_name(name: &[u8], system: u8, utf8: bool, extra: &[u8]) -> Cursor<Vec<u8>> {
        let short = |number: usize| (number as u16).to_le_bytes();
        let crc = crc32(PNG).to_le_bytes();
        let size = (PNG.len() as u32).to_le_bytes();
        let flags = if utf8 { [0, 8] } else { [0, 0] };
        let common =
            [&[20, 0], &flags[..], &[0; 6], &crc, &size, &size, &short(name.len()), &short(extra.len())].concat();
        let mut bytes = [b"PK\x03\x04", common.as_slice(), name, extra, PNG].concat();
        let list = bytes.len();
        bytes.extend([b"PK\x01\x02", &[20, system][..], common.as_slice(), &[0; 14], name, extra].concat());
        let length = (bytes.len() - list) as u32;
        let ends = [&[0; 4][..], &[1, 0, 1, 0], &length.to_le_bytes(), &(list as u32).to_le_bytes(), &[0, 0]].concat();
        bytes.extend([b"PK\x05\x06", ends.as_slice()].concat());
        Cursor::new(bytes)
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    /// Info-ZIP's field 0x7075.
    fn unicode_path(of: &[u8], path: &str) -> Vec<u8> {
        let data = [&[1], crc32(of).to_le_bytes().as_slice(), path.as_bytes()].concat();
        [&[0x75, 0x70], (data.len() as u16).to_le_bytes().as_slice(), &data].concat()
    }

    #[test]
    fn names_are_read_by_their_character_set_or_not_at_all() {
        const DOS: u8 = 0;
        const UNIX: u8 = 3;
        let file = |name: &[u8], system, utf8, extra: &[u8]| {
            let mut archive = Archive::open(with_name(name, system, utf8, extra)).unwrap();
            archive.check().unwrap();
            assert_eq!(archive.read(0, 100).unwrap(), PNG);
            let Found { path, photo, .. } = archive.files()[0].clone();
            (path, photo.map(|person| person.to_string()))
        };
        let read = |path: &str| (path.to_owned(), Ok(path.split('/').next().unwrap().to_owned()));
        let unread = |shown: &str| (shown.to_owned(), Err(Why::UnreadableName));
        let name = b"Ren\x82/1.png";
        // The field beside the name comes first, unless it is of another name.
        assert_eq!(file(name, UNIX, false, &unicode_path(name, "Ren\u{e9}/1.png")), read("Ren\u{e9}/1.png"));
        assert_eq!(file(name, UNIX, false, &unicode_path(b"other", "Ada/1.png")), unread("Ren\\x82/1.png"));
        // UTF-8, whether the archive says so or not.
        for utf8 in [true, false] {
            assert_eq!(file("Ren\u{e9}/1.png".as_bytes(), UNIX, utf8, b""), read("Ren\u{e9}/1.png"));
        }
        assert_eq!(file(name, DOS, true, b""), unread("Ren\\x82/1.png"));
        // Of DOS only if it was made there.
        assert_eq!(file(name, DOS, false, b""), read("Ren\u{e9}/1.png"));
        assert_eq!(file(name, UNIX, false, b""), unread("Ren\\x82/1.png"));
        assert_eq!(file(b"Ren\xe9/1.png", DOS, false, b""), unread("Ren\\xe9/1.png"));
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
            for number in 0..archive.files().len() {
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
