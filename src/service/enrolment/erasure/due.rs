//! Erasing what has expired, as what somebody deletes is erased: first nobody finds it any more, at any server.

use super::many::Done;
use super::{Enrolment, MANY_ERASED_WITHIN};
use crate::gallery::{Erased, Many};
use crate::service::ServiceError;

impl Enrolment {
    /// Erases a piece of what has expired, or leaves it to a job. `None`: nothing is due.
    pub(in crate::service) async fn erase_due(&self) -> Result<Option<Erased>, ServiceError> {
        if let Some((gallery, subjects)) = self.galleries().subjects_due().await? {
            let mut done = Done::default();
            self.hide_part(gallery, Many::Expired(&subjects), &mut done).await?;
            let erased = self.answer(done).await?;
            let (subjects, faces, embeddings) = (erased.subjects, erased.faces, erased.embeddings);
            return Ok(Some(Erased { subjects, faces, embeddings }));
        }
        let Some((erased, transaction)) = self.galleries().erase_faces_due().await? else { return Ok(None) };
        self.await_servers(transaction, MANY_ERASED_WITHIN).await?;
        Ok(Some(erased))
    }
}
