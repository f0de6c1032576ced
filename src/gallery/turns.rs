//! Work that one server of a database does at a time.

use sqlx::{Postgres, Transaction};

use super::{Galleries, GalleryError};
use crate::db::try_lock;

/// What is done by turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Review,
    Indexes,
    /// Embedding faces that came without an embedding of the active model.
    Embedding,
    /// Deleting what is left of retired models.
    Retirement,
    /// Measuring how often strangers are taken for somebody.
    Rates,
}

impl Turn {
    /// The advisory lock that stands for it. Any constants of ours serve.
    fn lock(self) -> i64 {
        match self {
            Self::Review => 0x7265_7669_6577,
            Self::Indexes => 0x696e_6465_7865,
            Self::Embedding => 0x656d_6265_6464,
            Self::Retirement => 0x7265_7469_7265,
            Self::Rates => 0x7261_7465_7300,
        }
    }
}

/// Holds a turn until it is dropped or this process dies.
pub struct Held(#[allow(dead_code, reason = "its end gives the turn back")] Transaction<'static, Postgres>);

impl Galleries {
    /// `None` if another server has the turn.
    pub async fn take_turn(&self, turn: Turn) -> Result<Option<Held>, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        Ok(try_lock(&mut transaction, turn.lock()).await?.then_some(Held(transaction)))
    }
}
