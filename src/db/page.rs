//! Paging by cursor: a page starts after an id, so rows that come or go meanwhile shift nothing. Whatever exists
//! from the first page to the last is listed exactly once.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
        let after = cursor.map_or(Ok(Uuid::nil()), |cursor| {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| PageError::InvalidCursor)?;
            Uuid::from_slice(&bytes).map_err(|_| PageError::InvalidCursor)
        })?;
        Ok(Self { after, limit })
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
        Page { next_cursor: last.map(|id| URL_SAFE_NO_PAD.encode(id.as_bytes())), items }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { after: Uuid::nil(), limit: Self::DEFAULT_LIMIT }
    }
}
