//! Tests against a real Postgres, each in a database of its own.

mod approximate;
mod audit;
mod changes;
mod chips;
mod databases;
mod embeddings;
mod enrolment;
mod erasure;
mod erasure_of_many;
mod models;
mod naming;
mod paging;
mod quota;
mod receipts;
mod retention;
mod revision;
mod scope;
mod search;
mod training;
mod transfer;
mod waiting;

use super::*;
use crate::db::PoolSettings;
use crate::db::testing::{database, database_with, empty_database};
use crate::registry::Registry;
use sha2::Digest;

use crate::index::{Hit, Query};
use crate::types::{
    BoundingBox, Embedding, FaceId, Landmarks, Name, NamePrefix, Point, Pose, Quality, StoredEmbedding,
};

/// Dimensions of the test model's embeddings.
const DIMENSION: usize = 32;

/// The galleries of a new database with one model.
struct Fixture {
    galleries: Galleries,
    registry: Registry,
    pool: Pool,
    model: ModelId,
}

impl Galleries {
    async fn create_subject(&self, gallery: &str, name: &Name, metadata: &Metadata) -> Result<Subject, GalleryError> {
        let (subject, transaction) = self.begin_subject(gallery, name, metadata, None).await?;
        transaction.commit().await?;
        Ok(subject)
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::on(database().await).await
    }

    async fn on(pools: Pools) -> Self {
        let registry = Registry::new(&pools);
        let model = registry.register("test", [1; 32], DIMENSION as u32).await.unwrap().id;
        Self { galleries: Galleries::new(&pools), registry, pool: pools.requests, model }
    }

    /// Enrolls without looking for duplicates.
    async fn enroll(&self, gallery: &str, subject: &str, embedding: &Embedding) -> Enrolled {
        self.enroll_as(OnDoubt::Allow, gallery, subject, embedding).await.unwrap()
    }

    /// Enrolls with a duplicate threshold of 0.9.
    async fn enroll_as(
        &self,
        on_duplicate: OnDoubt,
        gallery: &str,
        subject: &str,
        embedding: &Embedding,
    ) -> Result<Enrolled, GalleryError> {
        let subject = name(subject);
        let metadata = Metadata::default();
        let face = NewFace { on_duplicate, ..face(self.model, gallery, &subject, &metadata, embedding) };
        self.enroll_face(&face).await
    }

    /// Looks for duplicates in Postgres.
    async fn enroll_face(&self, face: &NewFace<'_>) -> Result<Enrolled, GalleryError> {
        let mut enrolment = self.galleries.begin_enrolment(face).await?;
        let similar = match enrolment.duplicates_query(face) {
            Some(query) => enrolment.search(face.model, &query).await?,
            None => Vec::new(),
        };
        let (enrolled, transaction) = enrolment.finish(face, similar).await?;
        transaction.commit().await?;
        Ok(enrolled)
    }

    /// For each probe its best subjects.
    async fn search(
        &self,
        gallery: GalleryId,
        probes: &[Embedding],
        top_k: usize,
        min_similarity: Option<f64>,
    ) -> Vec<Vec<Hit>> {
        self.search_model(gallery, self.model, probes, top_k, min_similarity).await
    }

    async fn search_model(
        &self,
        gallery: GalleryId,
        model: ModelId,
        probes: &[Embedding],
        top_k: usize,
        min_similarity: Option<f64>,
    ) -> Vec<Vec<Hit>> {
        let query = |probe| Query { probe: StoredEmbedding::from(probe), top_k, min_similarity, except: None };
        let queries: Vec<Query> = probes.iter().map(query).collect();
        self.galleries.search(gallery, model, &queries).await.unwrap()
    }

    /// Erases a gallery as servers do, in pieces if it takes them.
    async fn erase_gallery(&self, gallery: &str) -> Result<Erased, GalleryError> {
        if let Some((_, erased)) = self.galleries.erase_small_gallery(gallery, &Expected::Any).await? {
            return Ok(erased);
        }
        let mut transaction = self.galleries.begin().await?;
        let id = self.galleries.hide_gallery(&mut transaction, gallery, &Expected::Any).await?.gallery;
        transaction.commit().await?;
        self.erase_hidden(id).await
    }

    /// Erases all pieces of a hidden gallery.
    async fn erase_hidden(&self, gallery: GalleryId) -> Result<Erased, GalleryError> {
        let (mut erased, mut place) = (Erased::default(), Place::default());
        loop {
            let piece = self.galleries.erase_gallery_piece(gallery, &mut place).await?;
            erased += piece.erased;
            if piece.done {
                return Ok(erased);
            }
        }
    }

    /// Erases a subject that has few faces.
    async fn erase_subject(&self, gallery: &str, subject: &str) -> Result<Erased, GalleryError> {
        Ok(self.galleries.erase_small_subject(gallery, subject, &Expected::Any).await?.unwrap().1)
    }

    async fn rows(&self, table: &'static str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}")))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

fn face<'a>(
    model: ModelId,
    gallery: &'a str,
    subject: &'a Name,
    metadata: &'a Metadata,
    embedding: &'a Embedding,
) -> NewFace<'a> {
    let at = |x, y| Point { x, y };
    NewFace {
        gallery,
        subject,
        metadata,
        subject_expires_at: None,
        expires_at: None,
        chip: b"\xff\xd8 not really a JPEG \xff\xd9",
        image_sha256: sha2::Sha256::digest(uuid::Uuid::now_v7()).into(),
        bounding_box: BoundingBox { x: -0.1, y: 20.5, width: 112.3, height: 140.0 },
        landmarks: Landmarks::from([at(1.5, 2.25), at(3.1, 4.0), at(5.0, 6.0), at(7.0, 8.0), at(9.0, 10.7)]),
        detection_score: 0.987,
        quality: Quality {
            score: 0.5,
            detection: 0.987,
            eye_distance: 41.7,
            sharpness: 0.5,
            pose: Pose { yaw: -3.3, pitch: 1.1, roll: 0.7 },
        },
        model,
        embedding,
        others: &[],
        on_duplicate: OnDoubt::Allow,
        on_mismatch: OnDoubt::Allow,
        mismatch_threshold: 0.3,
        duplicate_threshold: 0.9,
    }
}

fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).unwrap()
}

/// Numbers that look random and are the same in every run (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    fn embedding(&mut self) -> Embedding {
        self.embedding_of(DIMENSION)
    }

    fn embedding_of(&mut self, dimension: usize) -> Embedding {
        Embedding::normalised((0..dimension).map(|_| self.next()).collect()).unwrap()
    }

    /// At a similarity of about 1 - `distance`²/2.
    fn near(&mut self, embedding: &Embedding, distance: f32) -> Embedding {
        let noise = self.embedding();
        let moved = embedding.as_slice().iter().zip(noise.as_slice()).map(|(e, n)| e + distance * n);
        Embedding::normalised(moved.collect()).unwrap()
    }
}

/// The axis `index`.
fn axis(index: usize) -> Embedding {
    Embedding::normalised((0..DIMENSION).map(|i| if i == index { 1.0 } else { 0.0 }).collect()).unwrap()
}
