//! Paging by cursor: a page starts after an id, so rows that come or go meanwhile shift nothing. Whatever exists
//! from the first page to the last is listed exactly once.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

/// Why there is no such page.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PageError {
    #[error("the cursor is not one that this list gave")]
    InvalidCursor,
    #[error("a page has 1 to {max} items, not {0}", max = PageRequest::MAX_LIMIT)]
    InvalidLimit(u32),
}

/// Which page of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    after: Uuid,
    limit: u32,
    list: ListTag,
}

/// Which list a cursor is of, so that none is used for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListTag([u8; 4]);

impl ListTag {
    /// The tag of a list that is told from others by its name.
    pub fn of(list: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(list).into();
        Self([digest[0], digest[1], digest[2], digest[3]])
    }

    /// A cursor of the list.
    pub(crate) fn cursor(self, place: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode([self.0.as_slice(), place].concat())
    }

    /// The list and the place that a cursor stands for.
    pub(crate) fn read(cursor: &str) -> Result<(Self, Vec<u8>), PageError> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| PageError::InvalidCursor)?;
        let (tag, place) = bytes.split_first_chunk().ok_or(PageError::InvalidCursor)?;
        Ok((Self(*tag), place.to_vec()))
    }
}

/// One page of a list, in the order of creation or the reverse.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Asks for the next page; `None` when this was the last.
    pub next_cursor: Option<String>,
}

impl PageRequest {
    pub const DEFAULT_LIMIT: u32 = 50;
    pub const MAX_LIMIT: u32 = 200;

    /// `limit` is 1..=200 (50 when not given), `cursor` a former page's `next_cursor` (the start when not given).
    pub fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, PageError> {
        let limit = Self::check_limit(limit)?;
        let Some(cursor) = cursor else { return Ok(Self { limit, ..Self::default() }) };
        let (list, place) = ListTag::read(cursor)?;
        let after = Uuid::from_slice(&place).map_err(|_| PageError::InvalidCursor)?;
        Ok(Self { after, limit, list })
    }

    /// The page of a list that is told from others by its name; a cursor of another list is refused.
    pub fn of(self, list: &str) -> Result<Self, PageError> {
        let tag = ListTag::of(list);
        if !self.after.is_nil() && self.list != tag {
            return Err(PageError::InvalidCursor);
        }
        Ok(Self { list: tag, ..self })
    }

    /// Items of a page: as many as asked for, if that is allowed.
    pub(crate) fn check_limit(limit: Option<u32>) -> Result<u32, PageError> {
        let limit = limit.unwrap_or(Self::DEFAULT_LIMIT);
        if (1..=Self::MAX_LIMIT).contains(&limit) { Ok(limit) } else { Err(PageError::InvalidLimit(limit)) }
    }

    /// In a list with the newest first, the page has ids lower than this.
    pub(crate) fn before(&self) -> Uuid {
        if self.after.is_nil() { Uuid::max() } else { self.after }
    }

    /// The page has ids greater than this.
    pub(crate) fn after(&self) -> Uuid {
        self.after
    }

    /// One row more than the page, which tells whether there is a next one.
    pub(crate) fn rows_to_fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Makes the page of the rows that were fetched.
    pub(crate) fn page<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> Uuid) -> Page<T> {
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        let last = items.last().filter(|_| more).map(id);
        Page { next_cursor: last.map(|id| self.list.cursor(id.as_bytes())), items }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { after: Uuid::nil(), limit: Self::DEFAULT_LIMIT, list: ListTag::default() }
    }
}
