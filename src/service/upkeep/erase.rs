//! The job that erases what was hidden before, or gives the faces of one subject to another.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Upkeep;
use super::scheduler::{Progress, Step};
use crate::gallery::{Erased, Place};
use crate::jobs::{JobKind, Lease};
use crate::service::enrolment::ErasureSettings;
use crate::service::work::{Failure, settings_of};

/// A job that erases or merges.
pub(super) struct Erasing {
    settings: ErasureSettings,
    stage: &'static str,
    place: Place,
    /// What there was when the first attempt began.
    totals: Option<Totals>,
    /// What is left now, once it has been counted.
    left: Option<Erased>,
}

/// What there is to do in all.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Totals {
    #[serde(flatten)]
    all: Erased,
    /// Whether faces of a subject that is merged were erased, as nobody was there any more who could get them.
    #[serde(default)]
    lost: bool,
}

impl Erasing {
    pub fn begin(lease: &Lease) -> Result<Self, Failure> {
        let stage = if lease.job().kind == JobKind::Merge { "merging" } else { "erasing" };
        let (settings, totals) = (settings_of(lease)?, Progress::totals_of(lease));
        Ok(Self { settings, stage, place: Place::default(), totals, left: None })
    }

    pub async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, Failure> {
        let ErasureSettings { gallery, subject, together, .. } = self.settings;
        let galleries = &upkeep.galleries();
        let (Some(left), Some(totals)) = (&mut self.left, &mut self.totals) else {
            let left = match together {
                Some(with) => galleries.count_hidden_together(with).await?,
                None => galleries.count_hidden(gallery, subject).await?,
            };
            self.left = Some(left);
            self.totals.get_or_insert(Totals { all: left, lost: false });
            return Ok(Step::More(self.progress()));
        };
        let piece = match (subject, together) {
            (Some(subject), _) => galleries.erase_subject_piece(gallery, subject).await?,
            (None, Some(with)) => galleries.erase_piece_together(gallery, with).await?,
            (None, None) => galleries.erase_gallery_piece(gallery, &mut self.place).await?,
        };
        let Erased { subjects, faces, embeddings } = piece.erased;
        take(&mut left.subjects, &mut totals.all.subjects, subjects);
        take(&mut left.faces, &mut totals.all.faces, faces + piece.moved);
        take(&mut left.embeddings, &mut totals.all.embeddings, embeddings);
        totals.lost |= faces > 0;
        if !piece.done {
            return Ok(Step::More(self.progress()));
        }
        let Totals { all, lost } = *totals;
        upkeep.recognition().catch_up().await;
        Ok(Step::Done(match self.settings.into {
            Some(_) if !lost => json!({"faces": all.faces}),
            _ => json!(all),
        }))
    }

    fn progress(&self) -> Progress {
        let (totals, left) = (self.totals.unwrap_or_default(), self.left.unwrap_or_default());
        let total = totals.all.faces + totals.all.subjects;
        let done = total.saturating_sub(left.faces + left.subjects);
        Progress { totals: Some(json!(totals)), ..Progress::new(self.stage, done, Some(total)) }
    }
}

/// Takes what a piece did from what is left. What came by enrolments under way was not counted before.
fn take(left: &mut u64, total: &mut u64, done: u64) {
    *total += done.saturating_sub(*left);
    *left = left.saturating_sub(done);
}
