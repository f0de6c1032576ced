//! Everything that is held of a person, as one JSON document that is made piece by piece: a subject can have thousands of faces.
//! Nothing is held in the database meanwhile, however slowly it is read; what comes or goes while it is made may be in it or not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::Utc;
use serde::Serialize;
use serde_json::to_string;

use super::Enrolment;
use crate::db::PageRequest;
use crate::gallery::{self, FaceEmbedding, GalleryError};
use crate::service::ServiceError;
use crate::service::answers::{
    PersonEmbedding, PersonFace, PersonFinding, PersonJob, PersonSetAside, PersonTemplate, Subject,
};
use crate::types::{FaceId, Name, StoredEmbedding, SubjectId, hex};

/// Faces that are read at once, each with its chip and the embeddings of all models.
const FACES: u32 = 25;

/// What nobody finds in the document, and why.
const NOT_INCLUDED: [&str; 4] = [
    "photos: they are never stored",
    "answers to requests that had an Idempotency-Key: they are kept for a day, and forgotten when the person is erased",
    "who asked for the person and when, and what was erased of them, as ids: GET /admin/audit?subject=ID and GET /erasures",
    "backups of the database, log files, and what the operator keeps elsewhere",
];

/// A document that is being made.
pub struct PersonExport {
    enrolment: Enrolment,
    subject: gallery::Subject,
    next: Part,
}

/// What comes next of a document.
enum Part {
    Head,
    /// The page of faces after a cursor; whether one was written before.
    Faces(Option<String>, bool),
    Rest,
    Nothing,
}

impl Enrolment {
    /// Begins the document about a subject, given by name or id.
    pub async fn export_person(&self, gallery: &Name, subject: &str) -> Result<PersonExport, ServiceError> {
        let subject = self.galleries().subject(gallery.as_str(), subject).await?;
        self.galleries().note_export(subject.gallery_id, Some(subject.id)).await?;
        Ok(PersonExport { enrolment: self.clone(), subject, next: Part::Head })
    }
}

impl PersonExport {
    pub fn subject(&self) -> SubjectId {
        self.subject.id
    }

    /// The next piece of the document, which [`Person`](crate::service::answers::Person) describes; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ServiceError> {
        let (text, next) = match std::mem::replace(&mut self.next, Part::Nothing) {
            Part::Head => (self.head()?, Part::Faces(None, false)),
            Part::Faces(cursor, any) => self.faces(cursor.as_deref(), any).await?,
            Part::Rest => (self.rest().await?, Part::Nothing),
            Part::Nothing => return Ok(None),
        };
        self.next = next;
        Ok(Some(text.into()))
    }

    fn head(&self) -> Result<String, ServiceError> {
        let subject = Subject::from(self.subject.clone());
        Ok(format!(
            "{{\"exported_at\":{},\"subject\":{},\"gallery_id\":{},\"not_included\":{},\"faces\":[",
            json(&Utc::now())?,
            json(&subject)?,
            json(&self.subject.gallery_id)?,
            json(&NOT_INCLUDED)?,
        ))
    }

    async fn faces(&self, cursor: Option<&str>, mut any: bool) -> Result<(String, Part), ServiceError> {
        let galleries = self.enrolment.galleries();
        let (gallery, subject) = (self.subject.gallery_id.to_string(), self.subject.id.to_string());
        let page = PageRequest::new(Some(FACES), cursor).map_err(GalleryError::from)?;
        let page = galleries.list_faces_of(&gallery, &subject, page).await?;
        let ids: Vec<FaceId> = page.items.iter().map(|face| face.id).collect();
        let mut embeddings = galleries.embeddings_of(&ids).await?.into_iter().peekable();
        let mut text = String::new();
        for face in page.items {
            let id = face.id;
            let own: Vec<FaceEmbedding> = std::iter::from_fn(|| embeddings.next_if(|next| next.face == id)).collect();
            let chip = match galleries.chip(id).await {
                Ok(chip) => Some(STANDARD.encode(chip)),
                Err(GalleryError::NoChip(_)) => None,
                // It is lost, or damaged; what else there is of the face is not.
                Err(GalleryError::UnreadableChip { source, .. }) if !source.is_of_master() => None,
                // It went since the page was read.
                Err(GalleryError::FaceNotFound(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            let image_sha256 = face.image_sha256.as_deref().map(hex);
            let embeddings = own.into_iter().map(PersonEmbedding::from).collect();
            if any {
                text.push(',');
            }
            text += &json(&PersonFace { face: face.into(), image_sha256, chip, embeddings })?;
            any = true;
        }
        let next = page.next_cursor.map_or(Part::Rest, |cursor| Part::Faces(Some(cursor), any));
        Ok((text, next))
    }

    async fn rest(&self) -> Result<String, ServiceError> {
        let (galleries, id) = (self.enrolment.galleries(), self.subject.id);
        let templates: Vec<PersonTemplate> = galleries.templates_of(id).await?.into_iter().map(Into::into).collect();
        let findings: Vec<PersonFinding> = galleries.findings_about(id).await?.into_iter().map(Into::into).collect();
        let set_aside: Vec<PersonSetAside> = galleries.set_aside_about(id).await?.into_iter().map(Into::into).collect();
        let disagreements = self.enrolment.models().disagreements_about(id).await?;
        let jobs = self.enrolment.jobs().about(id).await?;
        let jobs: Vec<PersonJob> = jobs
            .into_iter()
            .map(|job| PersonJob {
                id: job.id,
                kind: job.kind,
                state: job.state,
                created_at: job.created_at,
                finished_at: job.finished_at,
            })
            .collect();
        Ok(format!(
            "],\"templates\":{},\"findings\":{},\"disagreements\":{},\"set_aside\":{},\"jobs\":{}}}\n",
            json(&templates)?,
            json(&findings)?,
            json(&disagreements)?,
            json(&set_aside)?,
            json(&jobs)?,
        ))
    }
}

fn json(value: &impl Serialize) -> Result<String, ServiceError> {
    to_string(value).map_err(|error| ServiceError::Internal(error.to_string()))
}

fn numbers(embedding: &StoredEmbedding) -> Vec<f32> {
    embedding.as_slice().iter().map(|number| number.to_f32()).collect()
}

impl From<FaceEmbedding> for PersonEmbedding {
    fn from(stored: FaceEmbedding) -> Self {
        Self { model: stored.model, embedding: numbers(&stored.embedding), norm: stored.norm }
    }
}

impl From<gallery::SubjectTemplate> for PersonTemplate {
    fn from(stored: gallery::SubjectTemplate) -> Self {
        Self { model: stored.model, embedding: numbers(&stored.embedding), faces: stored.faces }
    }
}

impl From<gallery::FindingAbout> for PersonFinding {
    fn from(found: gallery::FindingAbout) -> Self {
        Self {
            kind: found.kind,
            model: found.model,
            subject_id: SubjectId(found.subject_id),
            face_id: found.face_id.map(FaceId),
            other_id: found.other_id.map(SubjectId),
            score: found.score,
            evidence: found.evidence.0,
            found_at: found.found_at,
        }
    }
}

impl From<gallery::SetAsideAbout> for PersonSetAside {
    fn from(item: gallery::SetAsideAbout) -> Self {
        Self { work: item.work, model: item.model, face_id: item.face_id.map(FaceId), reason: item.reason, at: item.at }
    }
}
