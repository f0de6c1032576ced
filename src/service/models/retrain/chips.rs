//! The chips of a training, as files: a folder for each subject, named by ids, so that nobody's name is on disk.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::LEAST_KEPT;
use crate::evaluation::{Gate, Random};
use crate::gallery::{KnownFace, StoredChip};
use crate::service::ServiceError;
use crate::service::models::Models;
use crate::service::work::{Failure, JobReporter};
use crate::types::{FaceId, GalleryId, SubjectId};

/// Chips of a training at most, for it holds them in memory, 37 KB each. Of a larger gallery, subjects are chosen by chance.
const MOST_CHIPS: usize = 50_000;

/// Chips per round trip to the database.
const CHUNK: usize = 256;

/// Faces to train on, with whom they show. Every attempt takes the same, but for those that were erased meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Faces(Vec<(SubjectId, Vec<FaceId>)>);

impl Faces {
    /// Chooses among faces, which are sorted by subject.
    fn choose(known: &[KnownFace], most: usize, seed: u64) -> Self {
        let of_one = known.chunk_by(|a, b| a.subject == b.subject);
        let mut subjects: Vec<(SubjectId, Vec<FaceId>)> =
            of_one.map(|faces| (faces[0].subject, faces.iter().map(|known| known.face).collect())).collect();
        if known.len() > most {
            Random::new(seed, 0).shuffle(&mut subjects);
            let mut room = most;
            subjects.retain(|(_, faces)| {
                let fits = faces.len() <= room;
                room -= if fits { faces.len() } else { 0 };
                fits
            });
        }
        Self(subjects)
    }

    /// Every second subject of each gallery, as many as [`kept_of`] says and up to `most`. Faces are sorted by gallery and
    /// subject.
    pub(super) fn half_of(known: &[KnownFace], most: usize) -> Self {
        let mut half = Vec::new();
        for gallery in known.chunk_by(|a, b| a.gallery == b.gallery) {
            let Self(subjects) = Self::choose(gallery, usize::MAX, 0);
            let kept = kept_of(subjects.len()).min(most);
            half.extend(subjects.into_iter().skip(1).step_by(2).take(kept));
        }
        Self(half)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn subjects(&self) -> HashSet<SubjectId> {
        self.0.iter().map(|(subject, _)| *subject).collect()
    }

    /// The faces of some of the subjects.
    pub(super) fn of(&self, subjects: &HashSet<SubjectId>) -> impl Iterator<Item = (SubjectId, &[FaceId])> {
        self.0
            .iter()
            .filter(|(subject, _)| subjects.contains(subject))
            .map(|(subject, faces)| (*subject, faces.as_slice()))
    }
}

/// Of so many people with two photos in a protected gallery, how many are shown to the training: half, but so that enough are
/// left for the gate where there are enough. Of one or two the training learns nothing.
pub(super) fn kept_of(people: usize) -> usize {
    match people.checked_sub(Gate::LEAST_MATED) {
        None if people >= LEAST_KEPT => people / 2,
        Some(spare @ 2..) => (people / 2).min(spare),
        _ => 0,
    }
}

impl Models {
    /// The faces of a gallery to train on.
    pub(super) async fn faces_to_train(&self, gallery: GalleryId, seed: u64) -> Result<Faces, ServiceError> {
        let known = self.galleries().faces_with_chip(gallery).await?;
        Ok(Faces::choose(&known, MOST_CHIPS, seed))
    }

    /// Writes the chips of `faces` into `folder`, where nothing else is left.
    pub(super) async fn write_chips(
        &self,
        folder: &Path,
        faces: &Faces,
        report: &mut JobReporter<'_>,
    ) -> Result<(), Failure> {
        // What an earlier attempt wrote may have been erased from the gallery since.
        remove(folder.to_owned()).await?;
        let all: Vec<(SubjectId, FaceId)> =
            faces.0.iter().flat_map(|(subject, faces)| faces.iter().map(|face| (*subject, *face))).collect();
        for (number, chunk) in all.chunks(CHUNK).enumerate() {
            let of: HashMap<FaceId, SubjectId> = chunk.iter().map(|(subject, face)| (*face, *subject)).collect();
            let ids: Vec<FaceId> = chunk.iter().map(|(_, face)| *face).collect();
            let chips = self.galleries().chips_of(&ids).await.map_err(ServiceError::from)?;
            let folder = folder.to_owned();
            on_disk(move || {
                chips.iter().try_for_each(|StoredChip { face, jpeg, .. }| {
                    let of_subject = folder.join(of[face].to_string());
                    std::fs::create_dir_all(&of_subject)?;
                    std::fs::write(of_subject.join(format!("{face}.jpg")), jpeg)
                })
            })
            .await?;
            report.check()?;
            let done = number * CHUNK + chunk.len();
            report.progress(json!({"stage": "chips", "done": done, "total": all.len()})).await?;
        }
        Ok(())
    }
}

/// Deletes a folder or file, if it is there.
pub(super) async fn remove(path: PathBuf) -> Result<(), Failure> {
    on_disk(move || {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    })
    .await
}

/// Works with files, off the async threads.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Failure::Passing(format!("cannot work with the files of a job: {error}"))),
        Err(error) => Err(Failure::Passing(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_large_gallery_whole_subjects_are_taken() {
        let gallery = GalleryId::new();
        let mut known = Vec::new();
        for count in [3, 1, 4, 2, 5] {
            let subject = SubjectId::new();
            known.extend((0..count).map(|_| KnownFace { gallery, subject, face: FaceId::new() }));
        }
        let count = |chosen: &Faces| chosen.0.iter().map(|(_, faces)| faces.len()).sum::<usize>();
        assert_eq!(count(&Faces::choose(&known, 15, 1)), 15);
        let some = Faces::choose(&known, 9, 1);
        assert!((5..=9).contains(&count(&some)), "{}", count(&some));
        assert_eq!(Faces::choose(&known, 9, 1), some);
        let half = Faces::half_of(&known, 10);
        assert_eq!(half.0.iter().map(|(_, faces)| faces.len()).collect::<Vec<_>>(), [1, 2]);
        assert!(half.subjects().contains(&known[3].subject) && !half.subjects().contains(&known[0].subject));
        assert_eq!(Faces::half_of(&known, 1).0.len(), 1);
        assert!(Faces::half_of(&known[..3], 10).is_empty());
        assert_eq!([3, 4, 9, 11, 12, 15, 20, 41].map(kept_of), [0, 2, 4, 0, 2, 5, 10, 20]);
        for (subject, faces) in &some.0 {
            assert_eq!(known.iter().filter(|known| known.subject == *subject).count(), faces.len());
        }
    }
}
