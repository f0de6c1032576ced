//! Enrolled people on whom a model's similarities are measured: some of all galleries, or of some of these if there are many.

use super::{ServiceError, Services};
use crate::evaluation::{Comparisons, EvaluationError, Faces};
use crate::gallery::PhotoId;
use crate::types::ModelId;

/// Galleries that are looked at, as many of the largest and the rest by lot, and people with two photos that one has at least.
const MOST_GALLERIES: usize = 200;
const LARGEST: usize = 20;
const LEAST_MATED: u32 = 2;

/// Subjects that are looked at, of all galleries together, and faces of each.
const MOST_SUBJECTS: u32 = 400;
const MOST_OF_ONE: u32 = 5;

/// Impostor pairs that are looked at; of more, as many are chosen at random.
const MOST_IMPOSTORS: usize = 200_000;

/// Embeddings of some faces, by subject, one of each photo of a subject.
#[derive(Default)]
pub(super) struct EnrolledSample {
    vectors: Vec<Vec<f32>>,
    /// Whom each shows, numbered from 0.
    subjects: Vec<usize>,
    /// The faces of each gallery.
    galleries: Vec<Vec<usize>>,
    photos: Vec<PhotoId>,
    /// Subjects with two photos or more.
    mated: usize,
}

impl Services {
    /// Faces of some subjects that are embedded by a model.
    pub(super) async fn sample_of_enrolled(&self, model: ModelId) -> Result<EnrolledSample, ServiceError> {
        let galleries = self.0.galleries.some_with_mated(LEAST_MATED, LARGEST, MOST_GALLERIES).await?;
        let each = (MOST_SUBJECTS / galleries.len().max(1) as u32).max(2);
        let (mut sample, mut subject) = (EnrolledSample::default(), 0);
        for gallery in galleries {
            let first = sample.vectors.len();
            for faces in self.0.galleries.sample_of_embeddings(gallery.id, model, each, MOST_OF_ONE).await? {
                sample.mated += usize::from(faces.len() > 1);
                for (photo, embedding) in faces {
                    sample.vectors.push(embedding.as_slice().iter().map(|value| value.to_f32()).collect());
                    sample.subjects.push(subject);
                    sample.photos.push(photo);
                }
                subject += 1;
            }
            sample.galleries.push((first..sample.vectors.len()).collect());
        }
        Ok(sample)
    }
}

impl EnrolledSample {
    /// Subjects with two photos or more.
    pub(super) fn mated(&self) -> usize {
        self.mated
    }

    /// Pairs of both kinds. Only faces of one gallery are compared, for nobody knows whether subjects of different ones are one
    /// person, and none with itself, where one photo is enrolled under two names.
    pub(super) fn comparisons(self, seed: u64) -> Result<Comparisons, EvaluationError> {
        let Self { vectors, subjects, galleries, photos, .. } = self;
        let faces = Faces::new(vectors, subjects)?;
        Comparisons::within(&faces, &galleries, MOST_IMPOSTORS, seed, |a, b| photos[a] != photos[b])
    }
}
