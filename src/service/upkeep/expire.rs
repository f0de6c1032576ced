//! The job that erases what has expired.

use std::time::Duration;

use metrics::{counter, gauge};

use super::Upkeep;
use super::scheduler::{Progress, Step};
use crate::gallery::Erased;
use crate::service::ServiceError;

/// How often is looked for what has expired.
const PAUSE: Duration = Duration::from_secs(5);

/// The job that sweeps galleries.
#[derive(Default)]
pub(super) struct Expiring {
    /// Subjects and faces that were erased since nothing was due.
    done: u64,
}

impl Expiring {
    /// Erases a piece of what is due.
    pub async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, ServiceError> {
        let Some(Erased { subjects, faces, .. }) = upkeep.enrolment().erase_due().await? else {
            self.done = 0;
            gauge!("faceid_retention_swept_timestamp_seconds").set(chrono::Utc::now().timestamp() as f64);
            return Ok(Step::Idle(PAUSE));
        };
        counter!("faceid_retention_erased_total", "what" => "subjects").increment(subjects);
        counter!("faceid_retention_erased_total", "what" => "faces").increment(faces);
        self.done += subjects + faces;
        Ok(Step::More(Progress::new("erasing", self.done, None)))
    }
}
