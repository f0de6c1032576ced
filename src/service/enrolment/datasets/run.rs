//! Enrolling the photos of a data set. Every attempt goes on where the last one was, and a photo that is enrolled already is
//! left as it is.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use tracing::warn;

use super::ImportSettings;
use super::archive::{Archive, Unreadable};
use crate::blobs::{BlobError, Upload};
use crate::engine::EngineError;
use crate::gallery::{GalleryError, OnDoubt};
use crate::jobs::Lease;
use crate::service::ServiceError;
use crate::service::enrolment::Enrolment;
use crate::service::requests::{EnrollRequest, FaceChoice, FileBytes};
use crate::service::work::{Failure, JobReporter, breathe, rest, settings_of};
use crate::types::Name;
use crate::vision::DecodeError;
use crate::walk::{Found, Why};

/// Photos that are enrolled at once: few, as requests wait meanwhile.
const AT_ONCE: usize = 4;

/// Refusals that are listed.
const LISTED: usize = 100;

/// The name under which attempts keep what they did. Another order of the files needs another one.
const DONE: &str = "accounted";

/// How often they do so.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for somebody who has expired to be erased.
const EXPIRED_PAUSE: Duration = Duration::from_secs(1);

/// What attempts did, with the first photos of the archive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Done {
    photos: usize,
    /// People of whom there is a face now, and the last of them: photos come by person.
    subjects: u64,
    last_person: Option<String>,
    faces: u64,
    already_there: u64,
    refused: u64,
    /// The first of them.
    refusals: Vec<Refusal>,
}

/// A photo that was not enrolled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Refusal {
    /// As the archive says.
    path: String,
    code: RefusalCode,
}

/// Why a photo was not enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RefusalCode {
    EmptyImage,
    UnsupportedImage,
    CorruptImage,
    ImageTooLarge,
    NoFace,
    UnusableFace,
    /// The gallery has as many subjects as it may have.
    SubjectQuota,
    /// It lies in a folder within a person's.
    NestedFolder,
    /// It lies beside the folders of people.
    BesideFolders,
    /// Its name, or that of a folder around it, begins with a dot.
    Hidden,
    /// It or its folder has a name that nobody can have.
    InvalidName,
    /// Nobody knows in which character set its name is.
    UnreadableName,
    /// The archive is damaged where the photo is.
    DamagedEntry,
    /// A fault of ours.
    Internal,
}

/// What came of a photo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Imported {
    Enrolled,
    AlreadyThere,
    Refused(RefusalCode),
}

/// A file that was read.
struct Read {
    /// Nobody, if it was left out.
    person: Option<Name>,
    path: String,
    /// With its sha256.
    content: Result<(Bytes, [u8; 32]), RefusalCode>,
}

impl Done {
    fn add(&mut self, photo: Read, outcome: Imported) {
        self.photos += 1;
        match outcome {
            Imported::Enrolled => self.faces += 1,
            Imported::AlreadyThere => self.already_there += 1,
            Imported::Refused(code) => {
                self.refused += 1;
                if self.refusals.len() < LISTED {
                    self.refusals.push(Refusal { path: photo.path, code });
                }
                return;
            }
        }
        let person = photo.person.map(|person| person.to_string());
        if self.last_person != person {
            self.subjects += 1;
            self.last_person = person;
        }
    }

    async fn save(&self, lease: &Lease) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(|error| Failure::Final(error.to_string()))?;
        lease.save(DONE, &text).await?;
        Ok(lease.advance().await?)
    }
}

impl Enrolment {
    /// Works on such a job.
    pub(in crate::service) async fn run_import(&self, lease: &Lease) -> Result<Value, Failure> {
        let settings: ImportSettings = settings_of(lease)?;
        let archive = self.open_archive(&settings).await?;
        let mut done: Done = match lease.saved(DONE).await? {
            Some(saved) => serde_json::from_slice(&saved.content).unwrap_or_default(),
            None => Done::default(),
        };
        let outcome = self.import_from(&archive, &settings, &mut done, lease).await;
        if let Err(Failure::Stopped | Failure::Passing(_)) = outcome
            && let Err(failure) = done.save(lease).await
        {
            warn!(?failure, job = %lease.job().id, "cannot note how far a job is");
        }
        outcome?;
        let Done { subjects, faces, already_there, refused, refusals, .. } = done;
        Ok(json!({
            "gallery": settings.gallery_name, "subjects": subjects, "faces": faces, "already_there": already_there,
            "refused": refused, "refusals": refusals,
        }))
    }

    async fn open_archive(&self, settings: &ImportSettings) -> Result<Arc<Mutex<Archive<Upload>>>, Failure> {
        let upload = self.uploads().upload(settings.archive).await.map_err(|error| match error {
            BlobError::NoUpload(_) => Failure::Final(format!("{error}; do all servers use the same --model-store?")),
            error => Failure::Passing(error.to_string()),
        })?;
        let opened = tokio::task::spawn_blocking(move || Archive::open(upload)).await;
        let archive = opened.map_err(|error| Failure::Passing(error.to_string()))??;
        Ok(Arc::new(Mutex::new(archive)))
    }

    async fn import_from(
        &self,
        archive: &Arc<Mutex<Archive<Upload>>>,
        settings: &ImportSettings,
        done: &mut Done,
        lease: &Lease,
    ) -> Result<(), Failure> {
        let mut report = JobReporter::new(lease);
        let (began, before, mut saved) = (Instant::now(), done.photos, Instant::now());
        let total = archive.lock().unwrap_or_else(PoisonError::into_inner).files().len();
        while done.photos < total {
            let piece_began = Instant::now();
            tokio::select! {
                biased;
                _ = lease.stopped() => return Err(Failure::Stopped),
                enrolled = self.import_piece(archive, settings, done.photos) => {
                    let enrolled = enrolled?;
                    if enrolled.is_empty() {
                        break;
                    }
                    enrolled.into_iter().for_each(|(photo, outcome)| done.add(photo, outcome));
                }
            }
            if saved.elapsed() >= INTERVAL {
                done.save(lease).await?;
                saved = Instant::now();
            }
            let each = began.elapsed().as_secs_f64() / (done.photos - before) as f64;
            let seconds_left = (each * total.saturating_sub(done.photos) as f64).ceil();
            let progress = json!({
                "stage": "enrolling", "done": done.photos, "total": total, "seconds_left": seconds_left,
            });
            report.progress(progress).await?;
            tokio::select! {
                _ = lease.stopped() => return Err(Failure::Stopped),
                () = rest(piece_began, self.parts.config.share) => (),
            }
        }
        Ok(())
    }

    /// Enrolls the next photos; none if there are no more.
    async fn import_piece(
        &self,
        archive: &Arc<Mutex<Archive<Upload>>>,
        settings: &ImportSettings,
        from: usize,
    ) -> Result<Vec<(Read, Imported)>, Failure> {
        let (archive, most) = (Arc::clone(archive), self.recognition().config().max_image_bytes);
        let reading = tokio::task::spawn_blocking(move || {
            let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
            let numbers = from..(from + AT_ONCE).min(archive.files().len());
            numbers.map(|number| read(&mut archive, number, most)).collect()
        });
        let photos: Vec<Read> = reading
            .await
            .map_err(|error| Failure::Passing(error.to_string()))
            .and_then(|read: Result<_, _>| Ok(read?))?;
        // Of one image twice, the second would not see the first.
        let mut seen = HashSet::new();
        let enrolling = photos.into_iter().map(|photo| {
            let sha256 = photo.content.as_ref().ok().map(|(_, sha256)| *sha256);
            let is_first = sha256.is_none_or(|sha256| seen.insert((photo.person.clone(), sha256)));
            async move {
                let outcome = match is_first {
                    true => self.import_photo(settings, &photo).await?,
                    false => Imported::AlreadyThere,
                };
                Ok::<_, Failure>((photo, outcome))
            }
        });
        try_join_all(enrolling.collect::<Vec<_>>()).await
    }

    async fn import_photo(&self, settings: &ImportSettings, photo: &Read) -> Result<Imported, Failure> {
        let gallery = settings.gallery;
        let (bytes, sha256) = match &photo.content {
            Ok(content) => content,
            Err(code) => return Ok(Imported::Refused(*code)),
        };
        let Some(subject) = &photo.person else { return Ok(Imported::Refused(RefusalCode::InvalidName)) };
        if self.galleries().has_image(gallery, subject, sha256).await.map_err(ServiceError::from)? {
            return Ok(Imported::AlreadyThere);
        }
        let by_id = Name::try_from(gallery.to_string()).map_err(|error| Failure::Final(error.to_string()))?;
        loop {
            let request = EnrollRequest {
                on_duplicate: OnDoubt::Allow,
                on_mismatch: OnDoubt::Allow,
                face: FaceChoice::Largest,
                expires_at: settings.expires_at,
                face_expires_at: settings.face_expires_at,
                ..EnrollRequest::new(FileBytes(bytes.clone()), subject.clone(), by_id.clone())
            };
            match self.enroll_admitted(request, None).await {
                Ok(_) => return Ok(Imported::Enrolled),
                // Requests come first, and models change.
                Err(ServiceError::Engine(EngineError::Overloaded) | ServiceError::ModelChanges) => breathe().await,
                // The name is free when the one who expired is erased.
                Err(ServiceError::Gallery(GalleryError::SubjectExpired(_))) => sleep(EXPIRED_PAUSE).await,
                Err(error) => return refusal(error).map(Imported::Refused),
            }
        }
    }
}

fn read(archive: &mut Archive<Upload>, number: usize, most: usize) -> Result<Read, ServiceError> {
    let Found { path, photo, .. } = archive.files()[number].clone();
    let person = match photo {
        Ok(person) => Some(person),
        Err(why) => return Ok(Read { person: None, path, content: Err(left_out(&why)) }),
    };
    let content = match archive.read(number, most) {
        Ok(bytes) => {
            let sha256 = Sha256::digest(&bytes).into();
            Ok((Bytes::from(bytes), sha256))
        }
        Err(Unreadable::Damaged) => Err(RefusalCode::DamagedEntry),
        Err(Unreadable::TooLarge) => Err(RefusalCode::ImageTooLarge),
        Err(Unreadable::Store(error)) => return Err(error),
    };
    Ok(Read { person, path, content })
}

fn left_out(why: &Why) -> RefusalCode {
    match why {
        Why::BesideFolders => RefusalCode::BesideFolders,
        Why::NestedFolder => RefusalCode::NestedFolder,
        Why::Hidden => RefusalCode::Hidden,
        Why::InvalidName(_) | Why::StepUp => RefusalCode::InvalidName,
        Why::UnreadableName => RefusalCode::UnreadableName,
        // An archive's list has files alone.
        Why::NoFile => RefusalCode::DamagedEntry,
    }
}

/// Whether an error is about the photo alone.
fn refusal(error: ServiceError) -> Result<RefusalCode, Failure> {
    match error {
        ServiceError::NoFace { .. } => Ok(RefusalCode::NoFace),
        ServiceError::UnusableFace { .. } => Ok(RefusalCode::UnusableFace),
        ServiceError::Gallery(GalleryError::SubjectQuota { .. }) => Ok(RefusalCode::SubjectQuota),
        ServiceError::Image { source, .. } => Ok(match source {
            DecodeError::Empty => RefusalCode::EmptyImage,
            DecodeError::Unsupported { .. } => RefusalCode::UnsupportedImage,
            DecodeError::Corrupt { .. } => RefusalCode::CorruptImage,
            DecodeError::TooManyBytes { .. }
            | DecodeError::TooManyPixels { .. }
            | DecodeError::TooMuchMemory { .. } => RefusalCode::ImageTooLarge,
        }),
        ServiceError::Engine(error @ (EngineError::Panicked | EngineError::Embedding(_))) => {
            warn!(%error, "a photo of a data set cannot be worked on");
            Ok(RefusalCode::Internal)
        }
        error => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_counted_once_and_refusals_are_listed_to_a_limit() {
        let named = |person: &str| Name::try_from(person.to_owned()).ok();
        let photo =
            |person: &str| Read { person: named(person), path: "p".to_owned(), content: Ok(Default::default()) };
        let mut done = Done::default();
        done.add(photo("ada"), Imported::Enrolled);
        done.add(photo("ada"), Imported::AlreadyThere);
        done.add(photo("bob"), Imported::Refused(RefusalCode::NoFace));
        done.add(photo("cyd"), Imported::AlreadyThere);
        assert_eq!((done.subjects, done.faces, done.already_there, done.refused), (2, 1, 2, 1));
        (0..2 * LISTED).for_each(|_| done.add(photo("dan"), Imported::Refused(RefusalCode::CorruptImage)));
        assert_eq!((done.photos, done.refused, done.refusals.len()), (4 + 2 * LISTED, 1 + 2 * LISTED as u64, LISTED));
        assert_eq!(serde_json::to_value(&done.refusals[0]).unwrap(), json!({"path": "p", "code": "no_face"}));
    }
}
