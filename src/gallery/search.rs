//! Identification in Postgres: the subjects of a gallery whose templates a probe resembles most.
//!
//! Postgres sums 32-bit floats in an order of its own, so it only shortlists: similarities are computed anew, exactly,
//! and the list is as long as it must be for none to be missed.

use pgvector::HalfVector;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::{Galleries, GalleryError, check_dimension};
use crate::index::{About, Hit, Hits, Query};
use crate::types::{FaceId, GalleryId, ModelId, StoredEmbedding, SubjectId};

/// What a sum of 32-bit floats can be off by: n·2^-24 for n terms whose absolute values sum up to 1 at most, rounded
/// generously.
const SUM_ERROR: f64 = 3e-4;

/// How the database finds the shortlist.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SearchMethod {
    /// Compares every template.
    Exact,
    /// Asks the HNSW index, as widely as this.
    Index { ef_search: u32 },
}

impl Galleries {
    /// For each query the most similar subjects (not faces) of the gallery: most similar first, equally similar ones by
    /// id. Exact, unless the gallery has an index: then the best is found with the recall that was measured for it.
    pub async fn search(&self, gallery: GalleryId, model: ModelId, queries: &[Query]) -> Result<Hits, GalleryError> {
        let mut connection = self.pool.begin().await?;
        let plan = self.plan(&mut connection, gallery, model).await?;
        let found = self.search_with(&mut connection, plan, gallery, model, queries).await?;
        connection.commit().await?;
        Ok(found)
    }

    /// In a transaction: how widely an index is searched is set for that alone.
    pub(super) async fn search_with(
        &self,
        connection: &mut PgConnection,
        plan: SearchMethod,
        gallery: GalleryId,
        model: ModelId,
        queries: &[Query],
    ) -> Result<Hits, GalleryError> {
        let dimension = self.known_dimension(connection, model).await?;
        if let SearchMethod::Index { ef_search } = plan {
            // Strict order: whatever the index gives first is nearer than what it gives later.
            sqlx::query(
                "select set_config('hnsw.ef_search', $1, true), set_config('hnsw.iterative_scan', 'strict_order', true)",
            )
            .bind(ef_search.to_string())
            .execute(&mut *connection)
            .await?;
        }
        let mut found = Vec::with_capacity(queries.len());
        for query in queries {
            check_dimension(dimension, query.probe.dimension())?;
            found.push(best_subjects(connection, plan, gallery, model, query).await?);
        }
        Ok(found)
    }

    /// One face each of up to `limit` subjects of a gallery, chosen as if by lot but the same every time.
    pub async fn sample_faces(
        &self,
        gallery: GalleryId,
        model: ModelId,
        limit: u32,
    ) -> Result<Vec<(SubjectId, StoredEmbedding)>, GalleryError> {
        let rows: Vec<(Uuid, HalfVector)> = sqlx::query_as(
            // One look-up each: a join may compare every pair while there are no statistics of a gallery yet.
            "select chosen.subject_id, e.embedding from ( \
               select subject_id from templates where model_id = $1 and gallery_id = $2 \
               order by md5(subject_id::text) limit $3 \
             ) chosen cross join lateral ( \
               select embedding from embeddings where gallery_id = $2 and subject_id = chosen.subject_id and model_id = $1 \
               order by md5(face_id::text) limit 1 \
             ) e order by chosen.subject_id",
        )
        .bind(model.0)
        .bind(gallery.0)
        .bind(i64::from(limit))
        .fetch_all(&self.beside)
        .await?;
        let face =
            |(subject, embedding): (Uuid, HalfVector)| (SubjectId(subject), StoredEmbedding::new(embedding.to_vec()));
        Ok(rows.into_iter().map(face).collect())
    }

    /// For each hit whose subject has several faces the one that resembles its probe most. Hits come by probe.
    pub async fn fill_faces(
        &self,
        gallery: GalleryId,
        model: ModelId,
        probes: &[StoredEmbedding],
        found: &mut [Vec<Hit>],
    ) -> Result<(), GalleryError> {
        let (mut numbers, mut subjects) = (Vec::new(), Vec::new());
        for (number, hits) in (1_i64..).zip(found.iter()) {
            let unknown = hits.iter().filter(|hit| hit.about.face_id.is_none());
            for hit in unknown {
                numbers.push(number);
                subjects.push(hit.about.subject_id.0);
            }
        }
        if subjects.is_empty() {
            return Ok(());
        }
        let vectors: Vec<HalfVector> = probes.iter().map(|probe| HalfVector::from(probe.as_slice().to_vec())).collect();
        let faces: Vec<(i64, Uuid, Uuid)> = sqlx::query_as(
            // Each subject by itself, as above.
            "select w.number, w.subject_id, e.face_id from unnest($3::bigint[], $4::uuid[]) as w (number, subject_id) \
             join unnest($5::halfvec[]) with ordinality as p (probe, number) on p.number = w.number \
             cross join lateral (select face_id from embeddings where gallery_id = $1 and subject_id = w.subject_id \
               and model_id = $2 order by embedding <#> p.probe, face_id limit 1) e",
        )
        .bind(gallery.0)
        .bind(model.0)
        .bind(numbers)
        .bind(subjects)
        .bind(vectors)
        // Whoever asks may not wait for it to the end.
        .fetch_all(&self.pool.cancellable())
        .await?;
        for (number, subject, face) in faces {
            let hits = usize::try_from(number - 1).ok().and_then(|number| found.get_mut(number));
            let hit = hits.and_then(|hits| hits.iter_mut().find(|hit| hit.about.subject_id.0 == subject));
            hit.into_iter().for_each(|hit| hit.about.face_id = Some(FaceId(face)));
        }
        Ok(())
    }
}

/// Runs a query.
pub(super) async fn best_subjects(
    connection: &mut PgConnection,
    plan: SearchMethod,
    gallery: GalleryId,
    model: ModelId,
    query: &Query,
) -> Result<Vec<Hit>, GalleryError> {
    if query.top_k == 0 {
        return Ok(Vec::new());
    }
    let mut rows_to_read = query.top_k.saturating_add(8);
    loop {
        let rows = shortlist(connection, plan, gallery, model, query, rows_to_read).await?;
        let all_read = rows.len() < rows_to_read;
        let mut hits: Vec<Hit> = rows.into_iter().map(|row| row.into_hit(&query.probe)).collect();
        // What was not read is no more similar than this.
        let unread = hits.last().filter(|_| !all_read).map(|last| last.similarity + 2.0 * SUM_ERROR);
        hits.retain(|hit| query.min_similarity.is_none_or(|least| hit.similarity >= least));
        hits.sort_by(|a, b| {
            b.similarity.total_cmp(&a.similarity).then_with(|| a.about.subject_id.cmp(&b.about.subject_id))
        });
        hits.truncate(query.top_k);
        let complete = unread.is_none_or(|bound| match hits.get(query.top_k - 1) {
            Some(last_wanted) => last_wanted.similarity > bound,
            None => query.min_similarity.is_some_and(|least| least > bound),
        });
        // An index has its own measure of completeness.
        if complete || matches!(plan, SearchMethod::Index { .. }) {
            return Ok(hits);
        }
        rows_to_read = rows_to_read.saturating_mul(4);
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct TemplateRow {
    pub(super) subject_id: Uuid,
    subject: String,
    faces: i32,
    face_id: Option<Uuid>,
    embedding: HalfVector,
}

impl TemplateRow {
    pub(super) fn into_parts(self) -> (About, StoredEmbedding) {
        let about = About {
            subject_id: SubjectId(self.subject_id),
            name: self.subject.into(),
            faces: self.faces.unsigned_abs(),
            face_id: self.face_id.map(FaceId),
        };
        (about, StoredEmbedding::new(self.embedding.to_vec()))
    }

    fn into_hit(self, probe: &StoredEmbedding) -> Hit {
        let (about, embedding) = self.into_parts();
        Hit { similarity: embedding.similarity(probe), about }
    }
}

async fn shortlist(
    connection: &mut PgConnection,
    plan: SearchMethod,
    gallery: GalleryId,
    model: ModelId,
    query: &Query,
    limit: usize,
) -> Result<Vec<TemplateRow>, GalleryError> {
    // `<#>` is the negative inner product; of unit vectors that is the negative cosine. An index is on the column as a
    // vector of known length, so that the plain column never meets it.
    let distance = match plan {
        SearchMethod::Exact => "embedding <#> $3".to_owned(),
        SearchMethod::Index { .. } => {
            let dimension = query.probe.dimension();
            format!("(embedding::halfvec({dimension})) <#> $3::halfvec({dimension})")
        }
    };
    let sql = format!(
        "select nearest.subject_id, s.name as subject, nearest.faces, nearest.face_id, nearest.embedding from ( \
           select subject_id, faces, face_id, embedding, {distance} as distance from templates \
           where model_id = $1 and gallery_id = $2 and subject_id <> $4 order by {distance} limit $5 \
         ) nearest join subjects s on s.id = nearest.subject_id and s.erased_at is null \
         join galleries g on g.id = $2 and g.erased_at is null order by nearest.distance"
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql))
        .bind(model.0)
        .bind(gallery.0)
        .bind(HalfVector::from(query.probe.as_slice().to_vec()))
        .bind(query.except.map_or(Uuid::nil(), |subject| subject.0))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    Ok(rows)
}
