//! Erasing many subjects or faces with one request: in a few transactions, of which each is for good.

use std::collections::HashSet;

use super::{Enrolment, ErasureSettings, MANY_ERASED_WITHIN};
use crate::gallery::{ErasedFaces, GalleryError, Many, Matching, SubjectFilter};
use crate::jobs::JobKind;
use crate::service::ServiceError;
use crate::service::answers::ErasedMany;
use crate::service::requests::{DeleteFaces, DeleteSubjects, Doomed};
use crate::types::{FaceId, GalleryId, Name, SubjectId};

/// How many thousands of those that match one request erases at most.
const MOST_PARTS: usize = 10;

/// What was done so far.
#[derive(Default)]
pub(in crate::service::enrolment) struct Done {
    erased: ErasedMany,
    /// The last transaction.
    transaction: Option<u64>,
}

impl Enrolment {
    /// Erases subjects of a gallery with all their faces: those of a list, or ten thousand that match.
    pub async fn delete_subjects(&self, request: DeleteSubjects) -> Result<ErasedMany, ServiceError> {
        let gallery = request.gallery.clone();
        let doomed = request.doomed()?;
        let gallery = self.galleries().gallery_id(gallery.as_str()).await?;
        let mut done = Done::default();
        match doomed {
            Doomed::Listed(names) => self.delete_listed(gallery, &names, &mut done).await?,
            Doomed::Matching(filter) => self.delete_matching(gallery, &filter, Some(MOST_PARTS), &mut done).await?,
        }
        self.answer(done).await
    }

    /// Erases faces; their subjects stay.
    pub async fn delete_faces(&self, DeleteFaces { faces }: DeleteFaces) -> Result<ErasedMany, ServiceError> {
        let ErasedFaces { found, erased, erasures, transaction } = self.galleries().delete_faces(&faces.0).await?;
        let mut done = Done { transaction, ..Done::default() };
        done.erased.add(erased, erasures);
        done.erased.not_found = named_once(faces.0.iter().filter(|face| !found.contains(face)).map(FaceId::to_string));
        self.answer(done).await
    }

    async fn delete_listed(&self, gallery: GalleryId, names: &[Name], done: &mut Done) -> Result<(), ServiceError> {
        let found = self.galleries().find_subjects(gallery, names).await?;
        let ids: Vec<SubjectId> = found.iter().flatten().copied().collect();
        let hidden: HashSet<SubjectId> = self.hide_part(gallery, Many::These(&ids), done).await?.into_iter().collect();
        let missed = names.iter().zip(found).filter(|(_, id)| id.is_none_or(|id| !hidden.contains(&id)));
        done.erased.not_found = named_once(missed.map(|(name, _)| name.to_string()));
        Ok(())
    }

    /// Those who were there when it began, so many thousands of them at most: who comes meanwhile stays.
    pub(in crate::service::enrolment) async fn delete_matching(
        &self,
        gallery: GalleryId,
        filter: &SubjectFilter,
        most: Option<usize>,
        done: &mut Done,
    ) -> Result<(), ServiceError> {
        let until = self.galleries().clock().await?;
        let mut matching = Matching { filter, until, after: None };
        let mut parts = 0;
        while most.is_none_or(|most| parts < most) {
            parts += 1;
            let hidden = self.hide_part(gallery, Many::Matching(matching), done).await?;
            match hidden.last() {
                Some(last) => matching.after = Some(*last),
                None => return Ok(()),
            }
        }
        done.erased.more = self.galleries().has_matching(gallery, matching).await?;
        Ok(())
    }

    /// Hides some subjects, commits that together with the job that does the rest, if there is any, and takes them out of memory.
    pub(super) async fn hide_part(
        &self,
        gallery: GalleryId,
        many: Many<'_>,
        done: &mut Done,
    ) -> Result<Vec<SubjectId>, ServiceError> {
        let mut transaction = self.galleries().begin().await?;
        let Some(hidden) = self.galleries().hide_subjects(&mut transaction, gallery, many).await? else {
            return Ok(Vec::new());
        };
        if let Some(with) = hidden.rest {
            let settings =
                ErasureSettings { gallery, subject: None, into: None, together: Some(with), erasure: hidden.erasure };
            let job = self.submit(&mut transaction, JobKind::Erase, with.to_string(), &settings).await?;
            done.erased.jobs.push(job.id);
        }
        transaction.commit().await.map_err(GalleryError::from)?;
        for subject in &hidden.subjects {
            self.recognition().served().forget_subject(gallery, *subject);
        }
        done.erased.add(hidden.erased, hidden.erasure);
        done.transaction = Some(hidden.transaction);
        Ok(hidden.subjects)
    }

    /// Answers when nobody finds any of it any more. Who has seen the last transaction has seen those before it.
    pub(in crate::service::enrolment) async fn answer(&self, done: Done) -> Result<ErasedMany, ServiceError> {
        if let Some(transaction) = done.transaction {
            self.await_servers(transaction, MANY_ERASED_WITHIN).await?;
        }
        Ok(done.erased)
    }
}

/// In their order, without those that were there before.
fn named_once(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names.filter(|name| seen.insert(name.clone())).collect()
}
