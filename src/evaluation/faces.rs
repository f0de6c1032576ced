//! Embeddings of faces, and whom they show.

use super::EvaluationError;

/// L2-normalised embeddings with their subjects, which are numbered from 0.
#[derive(Debug, Clone)]
pub struct Faces {
    vectors: Vec<Vec<f32>>,
    subjects: Vec<usize>,
    /// The faces of each subject.
    of_subject: Vec<Vec<usize>>,
}

impl Faces {
    /// `subjects[i]` is whom `vectors[i]` shows.
    pub fn new(vectors: Vec<Vec<f32>>, subjects: Vec<usize>) -> Result<Self, EvaluationError> {
        let dimension = vectors.first().map_or(0, Vec::len);
        if vectors.len() != subjects.len() || vectors.iter().any(|vector| vector.len() != dimension) {
            return Err(EvaluationError::Shape { vectors: vectors.len(), subjects: subjects.len() });
        }
        let mut of_subject = vec![Vec::new(); subjects.iter().max().map_or(0, |most| most + 1)];
        for (face, subject) in subjects.iter().enumerate() {
            of_subject[*subject].push(face);
        }
        Ok(Self { vectors, subjects, of_subject })
    }

    /// Number of faces.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Length of a vector.
    pub fn dimension(&self) -> usize {
        self.vectors.first().map_or(0, Vec::len)
    }

    pub fn vector(&self, face: usize) -> &[f32] {
        &self.vectors[face]
    }

    /// Whom a face shows.
    pub fn subject(&self, face: usize) -> usize {
        self.subjects[face]
    }

    /// The faces of each subject; a subject may have none.
    pub fn by_subject(&self) -> &[Vec<usize>] {
        &self.of_subject
    }

    /// Cosine, -1..=1 but for rounding.
    pub fn similarity(&self, a: usize, b: usize) -> f32 {
        dot(&self.vectors[a], &self.vectors[b])
    }

    /// Similarities of a vector to all faces, in their order.
    pub fn similarities(&self, vector: &[f32]) -> Vec<f32> {
        self.vectors.iter().map(|other| dot(vector, other)).collect()
    }
}

/// In eight sums, so that the compiler may use vector registers.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
pub(super) mod made {
    use super::Faces;
    use crate::evaluation::random::Random;

    /// Faces of `subjects` people, `each` of everybody, in a space of 64 dimensions. `spread` says how far the faces of
    /// one person lie apart: at 0 they are the same, at 2 few are recognised.
    pub fn faces(subjects: usize, each: usize, spread: f64, seed: u64) -> Faces {
        let mut random = Random::new(seed, 0);
        // Nearly normal: a sum of uniform variates.
        let mut noise = || (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
        let (mut vectors, mut of) = (Vec::new(), Vec::new());
        for subject in 0..subjects {
            let centre: Vec<f64> = (0..64).map(|_| noise()).collect();
            for _ in 0..each {
                let raw: Vec<f64> = centre.iter().map(|value| value + spread * noise()).collect();
                let norm = raw.iter().map(|value| value * value).sum::<f64>().sqrt();
                vectors.push(raw.iter().map(|value| (value / norm) as f32).collect());
                of.push(subject);
            }
        }
        Faces::new(vectors, of).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_any_length() {
        for n in [0, 1, 7, 8, 9, 512, 515] {
            let a: Vec<f32> = (0..n).map(|i| (i % 5) as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 3) as f32 - 1.0).collect();
            let plain: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert_eq!(dot(&a, &b), plain, "{n}");
        }
    }

    #[test]
    fn shapes_must_fit() {
        assert!(Faces::new(vec![vec![1.0]], vec![]).is_err());
        assert!(Faces::new(vec![vec![1.0], vec![1.0, 0.0]], vec![0, 1]).is_err());
        let faces = Faces::new(vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]], vec![1, 0, 1]).unwrap();
        assert_eq!(faces.by_subject(), [vec![1], vec![0, 2]]);
        assert_eq!(faces.similarities(faces.vector(2)), [0.6, 0.8, 1.0]);
    }
}
