//! How much of a HEIC is copied when its container is read.
//!
//! The decoder copies the data of each item that an image consists of. The same data may be named over and over: a few
//! kilobytes can make gigabytes, before anything is known of the image's size.

use std::collections::BTreeMap;

/// Longest list of items that is read: those of phones have some kilobytes.
const MOST_LIST: usize = 1 << 20;

/// The most bytes that are copied of a file; `None` if its container makes no sense.
pub(super) fn copied(file: &[u8]) -> Option<u64> {
    // The decoder takes the last one.
    let list = boxes(file).filter(|(kind, _)| *kind == b"meta").last()?.1.get(4..)?;
    if list.len() > MOST_LIST {
        return None;
    }
    let find = |kind: &'static [u8; 4]| boxes(list).filter(move |(name, _)| *name == kind).map(|(_, body)| body);
    let lengths = find(b"iloc").map(lengths).collect::<Option<Vec<_>>>()?.pop()?;
    // What is said of an item, such as how it is coded, is copied with it.
    let properties =
        find(b"iprp").flat_map(boxes).filter(|(kind, _)| *kind == b"ipco").flat_map(|(_, body)| boxes(body));
    let property = properties.map(|(_, body)| body.len() as u64).max().unwrap_or(0);
    let own = lengths.values().fold(0_u64, |all, length| all.saturating_add(*length));
    let mut parts = 0_u64;
    for references in find(b"iref") {
        for item in references_of(references)? {
            parts = parts.saturating_add(lengths.get(&item).copied().unwrap_or(0)).saturating_add(property);
        }
    }
    Some(own.saturating_add(parts).saturating_add(list.len() as u64))
}

/// Names and contents of boxes that follow each other.
fn boxes(mut rest: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let (length, header) = match u32::from_be_bytes(*length) {
            0 => (rest.len(), 8),
            1 => (usize::try_from(u64::from_be_bytes(*after.first_chunk()?)).ok()?, 16),
            length => (length as usize, 8),
        };
        let body = rest.get(header..length.min(rest.len()))?;
        rest = rest.get(length..).unwrap_or_default();
        Some((kind, body))
    })
}

/// A reader of numbers.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    /// Of so many bytes, 0 to 8.
    fn next(&mut self, size: usize) -> Option<u64> {
        let (number, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        (size <= 8).then(|| number.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }
}

/// Length of each item's data.
fn lengths(body: &[u8]) -> Option<BTreeMap<u64, u64>> {
    let mut numbers = Numbers(body);
    let version = numbers.next(1)?;
    numbers.next(3)?;
    let sizes = numbers.next(2)? as usize;
    let [offset, length, base, index] = [12, 8, 4, 0].map(|shift| sizes >> shift & 15);
    let index = if version == 0 { 0 } else { index };
    let wide = if version < 2 { 2 } else { 4 };
    let count = numbers.next(wide)?;
    let mut lengths = BTreeMap::new();
    for _ in 0..count {
        let item = numbers.next(wide)?;
        numbers.next(if version == 0 { 2 } else { 4 })?;
        numbers.next(base)?;
        let mut total = 0_u64;
        for _ in 0..numbers.next(2)? {
            numbers.next(index)?;
            numbers.next(offset)?;
            total = total.saturating_add(numbers.next(length)?);
        }
        lengths.insert(item, total);
    }
    Some(lengths)
}

/// The items that others refer to, as often as they do.
fn references_of(body: &[u8]) -> Option<Vec<u64>> {
    let wide = if *body.first()? == 0 { 2 } else { 4 };
    let mut found = Vec::new();
    for (_, list) in boxes(body.get(4..)?) {
        let mut numbers = Numbers(list);
        while !numbers.0.is_empty() {
            numbers.next(wide)?;
            for _ in 0..numbers.next(2)? {
                found.push(numbers.next(wide)?);
            }
        }
    }
    Some(found)
}
