//! What the review of a gallery found: duplicates and anomalies.

use super::Enrolment;
use crate::gallery::{Finding, FindingKind, FindingsRequest};
use crate::service::ServiceError;
use crate::service::answers::{Anomalies, Anomaly, AnomalyKind, DuplicatePair, DuplicatePairs, ReviewState};
use crate::service::recognition::{Authority, Serving};
use crate::types::{GalleryId, Name, Threshold};

impl Enrolment {
    /// Pairs of subjects that look like one person, of at least `min_similarity`; if not given, what about one pair of
    /// different people in the whole gallery reaches.
    pub async fn duplicates(
        &self,
        gallery: &Name,
        min_similarity: Option<Threshold>,
        page: &FindingsRequest,
    ) -> Result<DuplicatePairs, ServiceError> {
        let serving = self.recognition().serving();
        let gallery = self.recognition().find_gallery(&serving, gallery.as_str()).await?.id;
        let review = self.review_state(&serving, gallery).await?;
        let authority = self.recognition().authority(&serving, gallery).await?;
        let least = min_similarity.map_or_else(|| authority.listed_pair().threshold, Threshold::get);
        let kinds = [FindingKind::Duplicate];
        let found = self.galleries().list_findings(gallery, serving.id(), &kinds, least, page).await?;
        let items = found.items.into_iter().filter_map(|finding| pair(&authority, finding)).collect();
        Ok(DuplicatePairs { items, next_cursor: found.next_cursor, min_similarity: least, review })
    }

    /// Faces and subjects that look wrong; of one kind, or of all.
    pub async fn anomalies(
        &self,
        gallery: &Name,
        kind: Option<AnomalyKind>,
        page: &FindingsRequest,
    ) -> Result<Anomalies, ServiceError> {
        let serving = self.recognition().serving();
        let gallery = self.recognition().find_gallery(&serving, gallery.as_str()).await?.id;
        let review = self.review_state(&serving, gallery).await?;
        let kinds: &[FindingKind] = match kind {
            None => &[FindingKind::Mislabelled, FindingKind::TwoPeople, FindingKind::NotAFace],
            Some(AnomalyKind::Mislabelled) => &[FindingKind::Mislabelled],
            Some(AnomalyKind::TwoPeople) => &[FindingKind::TwoPeople],
            Some(AnomalyKind::NotAFace) => &[FindingKind::NotAFace],
        };
        let found = self.galleries().list_findings(gallery, serving.id(), kinds, f32::MIN, page).await?;
        let items = found.items.into_iter().filter_map(anomaly).collect();
        Ok(Anomalies { items, next_cursor: found.next_cursor, review })
    }

    pub(in crate::service) async fn review_state(
        &self,
        serving: &Serving,
        gallery: GalleryId,
    ) -> Result<ReviewState, ServiceError> {
        let progress = self.galleries().review_progress(gallery, serving.id()).await?;
        Ok(ReviewState { reviewed: progress.subjects.saturating_sub(progress.waiting), total: progress.subjects })
    }
}

fn pair(authority: &Authority<'_>, finding: Finding) -> Option<DuplicatePair> {
    let (other_id, other) = finding.other?;
    Some(DuplicatePair {
        subject: finding.subject,
        subject_id: finding.subject_id,
        other,
        other_id,
        similarity: finding.score,
        probability: authority.one_person(finding.score),
        found_at: finding.found_at,
    })
}

fn anomaly(finding: Finding) -> Option<Anomaly> {
    let kind = match finding.kind {
        FindingKind::Mislabelled => AnomalyKind::Mislabelled,
        FindingKind::TwoPeople => AnomalyKind::TwoPeople,
        FindingKind::NotAFace => AnomalyKind::NotAFace,
        FindingKind::Duplicate => return None,
    };
    let (other_id, other) = finding.other.unzip();
    Some(Anomaly {
        kind,
        subject: finding.subject,
        subject_id: finding.subject_id,
        face_id: finding.face_id,
        other,
        other_id,
        score: finding.score,
        evidence: finding.evidence,
        found_at: finding.found_at,
    })
}
