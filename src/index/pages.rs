//! Rows of bytes, in a large page of memory once there are enough.
//!
//! A scan reads gigabytes in order. In pages of 4 KiB the processor looks one up for every few rows, and its prefetching ends
//! with each; in pages of 2 MiB a scan for one query takes a tenth less time (benches/RESULTS.md).

use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut, MmapOptions};

/// Bytes of a large page on x86-64 and on most other processors.
pub const PAGE: usize = 2 << 20;

/// Rows one behind the other, [`PAGE`] bytes at most.
pub enum Rows {
    /// Few rows would waste a page.
    Few(Vec<i8>),
    Page(Page),
}

/// A large page, if the system has any.
pub struct Page {
    map: MmapMut,
    /// Where the page begins in the map.
    start: usize,
    /// Bytes that are used.
    len: usize,
}

impl Page {
    /// `None` if there is no memory.
    fn of(rows: &[i8]) -> Option<Self> {
        // Somewhere in it there is a whole page, whatever the map begins with. What is not touched takes no memory.
        let map = MmapOptions::new().len(2 * PAGE - 1).map_anon().ok()?;
        let start = (map.as_ptr() as usize).next_multiple_of(PAGE) - map.as_ptr() as usize;
        // Where it is refused, pages are small.
        let _ = map.advise_range(Advice::HugePage, start, PAGE);
        let mut page = Self { map, start, len: rows.len() };
        page.deref_mut().copy_from_slice(rows);
        Some(page)
    }
}

impl Deref for Page {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        bytemuck::cast_slice(&self.map[self.start..][..self.len])
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut [i8] {
        bytemuck::cast_slice_mut(&mut self.map[self.start..][..self.len])
    }
}

impl Rows {
    /// Adds a row behind the others; there must be room for it.
    pub fn push(&mut self, row: &[i8]) {
        match self {
            Self::Few(bytes) => {
                bytes.extend_from_slice(row);
                if bytes.len() + row.len() > PAGE
                    && let Some(page) = Page::of(bytes)
                {
                    *self = Self::Page(page);
                }
            }
            Self::Page(page) => {
                let end = page.len;
                page.len += row.len();
                page[end..].copy_from_slice(row);
            }
        }
    }

    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::Few(bytes) => bytes.truncate(len),
            Self::Page(page) => page.len = page.len.min(len),
        }
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Clone for Rows {
    fn clone(&self) -> Self {
        match self {
            Self::Few(bytes) => Self::Few(bytes.clone()),
            Self::Page(page) => Page::of(page).map_or_else(|| Self::Few(page.to_vec()), Self::Page),
        }
    }
}

impl Deref for Rows {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        match self {
            Self::Few(bytes) => bytes,
            Self::Page(page) => page,
        }
    }
}

impl DerefMut for Rows {
    fn deref_mut(&mut self) -> &mut [i8] {
        match self {
            Self::Few(bytes) => bytes,
            Self::Page(page) => page,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_the_same_when_they_move_to_a_page() {
        let stride = 192;
        let row = |number: usize| vec![(number % 127) as i8; stride];
        let (mut rows, mut expected) = (Rows::default(), Vec::new());
        for number in 0..PAGE / stride {
            assert!(matches!(rows, Rows::Few(_)));
            rows.push(&row(number));
            expected.extend(row(number));
        }
        assert!(matches!(rows, Rows::Page(_)));
        assert!(rows[..] == expected);
        let copy = rows.clone();
        assert!(matches!(copy, Rows::Page(_)));
        rows[..stride].fill(-1);
        rows.truncate(2 * stride);
        rows.push(&row(5));
        assert!(rows[..] == [vec![-1; stride], row(1), row(5)].concat());
        assert!(copy[..] == expected);
    }
}
