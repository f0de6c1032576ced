//! How often strangers are taken for somebody of a gallery: what was measured, kept for all servers.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::evaluation::FmrPoint;
use crate::types::{GalleryId, ModelId};

/// Rows may be committed this much later than the time that they bear.
const LATE: TimeDelta = TimeDelta::seconds(10);

/// A gallery as it was measured by a model.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredRates {
    pub model: ModelId,
    pub gallery: GalleryId,
    /// Subjects of the gallery then.
    pub subjects: u64,
    /// Faces that played the stranger.
    pub probes: u64,
    /// Share of the subjects who seem to be enrolled twice.
    pub twice: f64,
    /// False match rates of one comparison; empty where there was too little to tell.
    pub curve: Vec<FmrPoint>,
    pub measured_at: DateTime<Utc>,
}

/// How large a gallery is, and was when it was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GallerySize {
    pub gallery: GalleryId,
    pub subjects: u64,
    pub measured: Option<(u64, DateTime<Utc>)>,
}

#[derive(sqlx::FromRow)]
struct RatesRow {
    model_id: Uuid,
    gallery_id: Uuid,
    subjects: i64,
    probes: i64,
    twice: f64,
    curve: Option<Json<Vec<FmrPoint>>>,
    measured_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct SizeRow {
    gallery_id: Uuid,
    subjects: i64,
    measured_subjects: Option<i64>,
    measured_at: Option<DateTime<Utc>>,
}

impl Galleries {
    /// Keeps what was measured, in place of what was before. Nothing happens if the gallery is gone.
    pub async fn save_rates(&self, rates: &MeasuredRates) -> Result<(), GalleryError> {
        sqlx::query(
            "insert into gallery_rates (model_id, gallery_id, subjects, probes, twice, curve, measured_at) \
             select $1, id, $3, $4, $5, $6, $7 from galleries where id = $2 and erased_at is null for key share \
             on conflict on constraint gallery_rate_pkey do update set subjects = excluded.subjects, \
             probes = excluded.probes, twice = excluded.twice, curve = excluded.curve, measured_at = excluded.measured_at",
        )
        .bind(rates.model.0)
        .bind(rates.gallery.0)
        .bind(rates.subjects.cast_signed())
        .bind(rates.probes.cast_signed())
        .bind(rates.twice)
        .bind((!rates.curve.is_empty()).then(|| Json(rates.curve.clone())))
        .bind(rates.measured_at)
        .execute(&self.beside)
        .await?;
        Ok(())
    }

    /// What was measured by some models, all of it or what is newer than `since`.
    pub async fn rates_since(
        &self,
        models: &[ModelId],
        since: Option<DateTime<Utc>>,
    ) -> Result<Vec<MeasuredRates>, GalleryError> {
        let ids: Vec<Uuid> = models.iter().map(|model| model.0).collect();
        let rows: Vec<RatesRow> = sqlx::query_as(
            "select model_id, gallery_id, subjects, probes, twice, curve, measured_at from gallery_rates \
             where model_id = any($1) and measured_at > coalesce($2, '-infinity')",
        )
        .bind(ids)
        .bind(since.map(|since| since - LATE))
        .fetch_all(&self.beside)
        .await?;
        Ok(rows.into_iter().map(MeasuredRates::from).collect())
    }

    /// The galleries with `least` subjects or more, largest first. Reads an index of all templates.
    pub async fn gallery_sizes(&self, model: ModelId, least: u64) -> Result<Vec<GallerySize>, GalleryError> {
        let rows: Vec<SizeRow> = sqlx::query_as(
            "select t.gallery_id, t.subjects, r.subjects as measured_subjects, r.measured_at from ( \
               select gallery_id, count(*) as subjects from templates where model_id = $1 \
               group by gallery_id having count(*) >= $2 \
             ) t join galleries g on g.id = t.gallery_id and g.erased_at is null and not exists (select from quarantine q \
               where q.work = 'measure' and q.model_id = $1 and q.gallery_id = t.gallery_id) \
             left join gallery_rates r on r.model_id = $1 and r.gallery_id = t.gallery_id order by t.subjects desc",
        )
        .bind(model.0)
        .bind(least.cast_signed())
        .fetch_all(&self.beside)
        .await?;
        let size = |row: SizeRow| GallerySize {
            gallery: GalleryId(row.gallery_id),
            subjects: row.subjects.unsigned_abs(),
            measured: row.measured_subjects.map(i64::unsigned_abs).zip(row.measured_at),
        };
        Ok(rows.into_iter().map(size).collect())
    }

    /// Subjects with faces of a model, counted up to `most`.
    pub async fn count_templates_up_to(
        &self,
        gallery: GalleryId,
        model: ModelId,
        most: u64,
    ) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from (select from templates where model_id = $1 and gallery_id = $2 limit $3) t",
        )
        .bind(model.0)
        .bind(gallery.0)
        .bind(most.cast_signed())
        .fetch_one(&self.pool)
        .await?;
        Ok(count.unsigned_abs())
    }
}

impl From<RatesRow> for MeasuredRates {
    fn from(row: RatesRow) -> Self {
        Self {
            model: ModelId(row.model_id),
            gallery: GalleryId(row.gallery_id),
            subjects: row.subjects.unsigned_abs(),
            probes: row.probes.unsigned_abs(),
            twice: row.twice,
            curve: row.curve.map(|curve| curve.0).unwrap_or_default(),
            measured_at: row.measured_at,
        }
    }
}
