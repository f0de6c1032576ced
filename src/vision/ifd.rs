//! The directories of tags that TIFF, EXIF and most raw files of cameras consist of, read leniently: what lies outside
//! the file or makes no sense is absent, never an error.

/// Bytes that begin like a TIFF file.
#[derive(Clone, Copy)]
pub(super) struct Tags<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    /// BigTIFF: offsets and counts of eight bytes.
    big: bool,
}

/// Directories that a file can make us look at.
const MOST_DIRECTORIES: usize = 64;
/// Tags of a directory; those of cameras have some dozens.
const MOST_ENTRIES: usize = 4096;
/// Values of a tag that are of interest here: strips, tiles and directories can be many, but not endlessly.
const MOST_VALUES: usize = 1 << 16;

/// Tags whose values are offsets of further directories.
const SUB_DIRECTORIES: u16 = 0x014a;

impl<'a> Tags<'a> {
    /// `None` if the bytes do not begin with an order of bytes. The number behind it is 42, and other ones in raw files.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.get(..2)? {
            b"II" => false,
            b"MM" => true,
            _ => return None,
        };
        let tags = Self { bytes, big_endian, big: false };
        Some(Self { big: tags.number(2, 2)? == 43, ..tags })
    }

    /// The number that tells kinds of files apart.
    pub fn magic(&self) -> u64 {
        self.number(2, 2).unwrap_or_default()
    }

    /// The first directory.
    pub fn first(&self) -> Option<Directory<'a>> {
        let offset = if self.big { self.number(8, 8)? } else { self.number(4, 4)? };
        self.directory(offset)
    }

    /// All directories: the chain of main ones, and those that they name.
    pub fn directories(&self) -> Vec<Directory<'a>> {
        let mut found: Vec<Directory<'a>> = Vec::new();
        let mut left: Vec<Directory<'a>> = self.first().into_iter().collect();
        while let Some(directory) = left.pop() {
            let is_new = found.iter().all(|known| known.start != directory.start);
            if found.len() == MOST_DIRECTORIES || !is_new {
                continue;
            }
            left.extend(directory.next());
            let named = directory.values(SUB_DIRECTORIES).into_iter().take(MOST_DIRECTORIES);
            left.extend(named.filter_map(|offset| self.directory(offset)));
            found.push(directory);
        }
        found
    }

    fn directory(&self, offset: u64) -> Option<Directory<'a>> {
        let start = usize::try_from(offset).ok().filter(|start| *start > 0)?;
        let size = if self.big { 8 } else { 2 };
        let entries = usize::try_from(self.number(start, size)?).ok()?;
        let is_cut = entries > MOST_ENTRIES;
        Some(Directory { tags: *self, start: start + size, entries: entries.min(MOST_ENTRIES), is_cut })
    }

    /// The number in `size` bytes at an offset.
    fn number(&self, at: usize, size: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(size)?)?;
        let add = |all: u64, byte: &u8| all << 8 | u64::from(*byte);
        Some(if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }
}

/// Bytes of a value of a type.
fn size_of_value(kind: u64) -> Option<u64> {
    Some(match kind {
        // BYTE, ASCII, SBYTE, UNDEFINED
        1 | 2 | 6 | 7 => 1,
        // SHORT, SSHORT
        3 | 8 => 2,
        // LONG, SLONG, FLOAT, IFD
        4 | 9 | 11 | 13 => 4,
        // RATIONAL, SRATIONAL, DOUBLE, and those of BigTIFF
        5 | 10 | 12 | 16..=18 => 8,
        _ => return None,
    })
}

/// A list of tags.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    tags: Tags<'a>,
    /// Of the first entry.
    start: usize,
    entries: usize,
    /// There are more, which are not looked at.
    is_cut: bool,
}

/// How much a tag claims to hold.
pub(super) struct Claim {
    pub tag: u16,
    pub values: u64,
    pub bytes: u64,
}

impl<'a> Directory<'a> {
    /// The whole numbers of a tag, of whatever type of whole number; none if it is absent or anything else.
    pub fn values(&self, tag: u16) -> Vec<u64> {
        let Some((at, size, count)) = self.find(tag) else { return Vec::new() };
        (0..count.min(MOST_VALUES)).map_while(|index| self.tags.number(at + index * size, size)).collect()
    }

    pub fn value(&self, tag: u16) -> Option<u64> {
        let (at, size, _) = self.find(tag)?;
        self.tags.number(at, size)
    }

    /// The bytes of a tag: text, or what no reader knows.
    pub fn bytes(&self, tag: u16) -> &'a [u8] {
        let found = self.find(tag).filter(|(_, size, _)| *size == 1);
        found.and_then(|(at, _, count)| self.tags.bytes.get(at..at.checked_add(count)?)).unwrap_or_default()
    }

    /// Where in the file the numbers of a tag are.
    pub fn offset(&self, tag: u16) -> Option<usize> {
        self.find(tag).map(|(at, ..)| at)
    }

    /// How much each tag claims to hold, one that comes again included; `None` if the directory has more tags than any camera writes.
    pub fn claims(&self) -> Option<impl Iterator<Item = Claim>> {
        let (tags, start, entry_size) = (self.tags, self.start, self.entry_size());
        let claim = move |index: usize| {
            let at = start + index * entry_size;
            let (tag, kind) = (tags.number(at, 2)?, tags.number(at + 2, 2)?);
            let values = tags.number(at + 4, if tags.big { 8 } else { 4 })?;
            Some(Claim { tag: tag as u16, values, bytes: values.saturating_mul(size_of_value(kind).unwrap_or(1)) })
        };
        (!self.is_cut).then(|| (0..self.entries).map_while(claim))
    }

    fn next(&self) -> Option<Directory<'a>> {
        let size = if self.tags.big { 8 } else { 4 };
        let end = self.start.checked_add(self.entries.checked_mul(self.entry_size())?)?;
        self.tags.directory(self.tags.number(end, size)?)
    }

    fn entry_size(&self) -> usize {
        if self.tags.big { 20 } else { 12 }
    }

    /// Offset of the values, size of one, and how many there are.
    fn find(&self, tag: u16) -> Option<(usize, usize, usize)> {
        let word = if self.tags.big { 8 } else { 4 };
        let mut starts = (0..self.entries).map(|index| self.start + index * self.entry_size());
        // The entries end with the file.
        let entry = starts.find_map(|at| match self.tags.number(at, 2) {
            None => Some(None),
            Some(number) => (number == u64::from(tag)).then_some(Some(at)),
        })??;
        let kind = self.tags.number(entry + 2, 2).filter(|kind| !matches!(kind, 5 | 10 | 11 | 12))?;
        let size = size_of_value(kind)? as usize;
        let count = usize::try_from(self.tags.number(entry + 4, word)?).ok().filter(|count| *count > 0)?;
        let place = entry + 4 + word;
        let at = if size * count.min(16) <= word { place } else { self.tags.number(place, word)? as usize };
        Some((at, size, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_absent() {
        assert!(Tags::new(b"").is_none());
        assert!(Tags::new(b"II").is_none());
        // A directory of as many entries as can be stated, which are not there.
        let tags = Tags::new(b"II*\0\x08\0\0\0\xff\xff").unwrap();
        assert_eq!(tags.first().unwrap().value(0x112), None);
        assert_eq!(tags.directories().len(), 1);
        // Values behind the end of the file.
        let far = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\xff\xff\xff\xff".as_slice(), &[0xff; 8]].concat();
        assert_eq!(Tags::new(&far).unwrap().first().unwrap().values(0x112), Vec::<u64>::new());
    }

    #[test]
    fn directories_that_lead_to_each_other_end() {
        // Both name the other as the next one.
        let mut bytes = b"MM\0*\0\0\0\x08".to_vec();
        bytes.extend([0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 8]);
        assert_eq!(Tags::new(&bytes).unwrap().directories().len(), 2);
    }
}
