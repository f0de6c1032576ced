//! A candidate in the shadow: how often, and about whom, it would have answered otherwise than the active model did.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::noting::note;
use super::{Registry, RegistryError, announce};
use crate::audit::Action;
use crate::db::{DbError, Page, PageRequest, Transaction, violates};
use crate::types::{Actor, GalleryId, ModelId, SubjectId};

/// Disagreements that are kept of a model, the latest.
const KEPT: i64 = 5000;

/// How two models differ about a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisagreementKind {
    /// Both know the face, as different people.
    OtherSubject,
    /// The active model knows the face, the candidate does not.
    OnlyActive,
    /// The candidate knows the face, the active model does not.
    OnlyCandidate,
}

impl DisagreementKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherSubject => "other_subject",
            Self::OnlyActive => "only_active",
            Self::OnlyCandidate => "only_candidate",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::OtherSubject, Self::OnlyActive, Self::OnlyCandidate].into_iter().find(|kind| kind.name() == name)
    }
}

/// What one model says of a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opinion {
    /// Whom the probe resembles most, and how much; nobody in a gallery without faces.
    pub best: Option<(SubjectId, f32)>,
    /// From which similarity on the face is known.
    pub threshold: f32,
}

impl Opinion {
    /// Who it is, if the face is known.
    fn known(&self) -> Option<SubjectId> {
        self.best.filter(|(_, similarity)| *similarity >= self.threshold).map(|(subject, _)| subject)
    }
}

/// A probe about which two models were asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    pub candidate: ModelId,
    /// The active model.
    pub against: ModelId,
    pub gallery: GalleryId,
    pub by_active: Opinion,
    pub by_candidate: Opinion,
}

impl Comparison {
    /// How the two differ; `None` if they agree: on one person, or that it is nobody.
    pub fn disagreement(&self) -> Option<DisagreementKind> {
        match (self.by_active.known(), self.by_candidate.known()) {
            (active, candidate) if active == candidate => None,
            (Some(_), Some(_)) => Some(DisagreementKind::OtherSubject),
            (Some(_), None) => Some(DisagreementKind::OnlyActive),
            (None, _) => Some(DisagreementKind::OnlyCandidate),
        }
    }
}

/// What came of the probes that a candidate and one active model were asked about.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct ShadowTally {
    /// The name of the model that was active.
    pub against: String,
    #[sqlx(try_from = "i64")]
    pub agreed: u64,
    #[sqlx(try_from = "i64")]
    pub other_subject: u64,
    #[sqlx(try_from = "i64")]
    pub only_active: u64,
    #[sqlx(try_from = "i64")]
    pub only_candidate: u64,
    pub since: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
}

/// A probe about which a candidate and the active model differed.
#[derive(Debug, Clone, PartialEq)]
pub struct Disagreement {
    pub id: Uuid,
    pub at: DateTime<Utc>,
    /// The name of the gallery.
    pub gallery: String,
    /// The name of the model that was active.
    pub against: String,
    pub kind: DisagreementKind,
    pub by_active: NamedOpinion,
    pub by_candidate: NamedOpinion,
}

/// A disagreement, as far as it is about one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct DisagreementAbout {
    pub at: DateTime<Utc>,
    /// The names of the candidate, and of the model that was active.
    pub model: String,
    pub against: String,
    pub kind: DisagreementKind,
    /// By whom the subject was nearest to the probe, and how near.
    pub active_similarity: Option<f32>,
    pub candidate_similarity: Option<f32>,
}

/// An [`Opinion`] with the name that the subject has now.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedOpinion {
    pub subject: Option<(SubjectId, String)>,
    pub similarity: Option<f32>,
    pub threshold: f32,
}

impl Registry {
    /// Lets the secondary model, which is held, answer in the shadow from now on, for a share of the probes (more than 0, at
    /// most 1). What was noted of it before is forgotten, unless it is in the shadow already.
    pub async fn begin_shadow(
        &self,
        mut held: Transaction,
        id: ModelId,
        share: f64,
        actor: &Actor,
    ) -> Result<(), RegistryError> {
        let already: Option<f64> = sqlx::query_scalar("select shadow_share from models where id = $1")
            .bind(id.0)
            .fetch_one(&mut *held)
            .await?;
        if already.is_none() {
            forget(&mut held, id).await?;
        }
        sqlx::query("update models set shadow_share = $2 where id = $1")
            .bind(id.0)
            .bind(share)
            .execute(&mut *held)
            .await?;
        note(&mut held, actor, Action::ShadowStart, id, json!({"share": share})).await?;
        announce(&mut held).await?;
        Ok(held.commit().await?)
    }

    /// Ends the shadow of a model: whether it was in it. `is_promoted` says that faces are embedded by it for a promotion as
    /// well, which goes on. What was noted and embedded stays.
    pub async fn end_shadow(&self, id: ModelId, is_promoted: bool, actor: &Actor) -> Result<bool, RegistryError> {
        let mut transaction = self.begin_exclusively().await?;
        let sql = "update models set shadow_share = null, is_target = $2 where id = $1 and shadow_share is not null";
        let ended = sqlx::query(sql).bind(id.0).bind(is_promoted).execute(&mut *transaction).await?.rows_affected();
        if ended > 0 {
            note(&mut transaction, actor, Action::ShadowEnd, id, json!({"reason": "asked for"})).await?;
            announce(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(ended > 0)
    }

    /// Notes what came of a probe. Nothing is noted if the shadow has ended, or somebody of it was erased meanwhile.
    pub async fn note_comparison(&self, comparison: &Comparison) -> Result<(), RegistryError> {
        let kind = comparison.disagreement();
        let mut transaction = self.pool.begin().await?;
        let tallied = sqlx::query(
            "insert into shadow_tallies as t \
               (model_id, against_id, agreed, other_subject, only_active, only_candidate) \
             select m.id, $2, ($3 = 'agreed')::int, ($3 = 'other_subject')::int, ($3 = 'only_active')::int, \
               ($3 = 'only_candidate')::int \
             from models m where m.id = $1 and m.shadow_share is not null for share of m \
             on conflict on constraint shadow_tally_pkey do update set agreed = t.agreed + excluded.agreed, \
               other_subject = t.other_subject + excluded.other_subject, \
               only_active = t.only_active + excluded.only_active, \
               only_candidate = t.only_candidate + excluded.only_candidate, last_at = now()",
        )
        .bind(comparison.candidate.0)
        .bind(comparison.against.0)
        .bind(kind.map_or("agreed", DisagreementKind::name))
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if let Some(kind) = kind.filter(|_| tallied > 0) {
            match keep(&mut transaction, comparison, kind).await {
                Ok(()) => {}
                // Whoever is meant is gone, and so is what was said of them.
                Err(error) if GONE.iter().any(|constraint| violates(&error, constraint)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(transaction.commit().await?)
    }

    /// What came of the probes so far, by the model that was active, the latest first.
    pub async fn shadow_tallies(&self, id: ModelId) -> Result<Vec<ShadowTally>, RegistryError> {
        let tallies = sqlx::query_as(
            "select a.name as against, t.agreed, t.other_subject, t.only_active, t.only_candidate, t.since, t.last_at \
             from shadow_tallies t join models a on a.id = t.against_id where t.model_id = $1 order by t.last_at desc",
        );
        Ok(tallies.bind(id.0).fetch_all(&self.pool).await?)
    }

    /// The probes about which two models differed and which at least one of them took for a subject, latest first.
    pub async fn disagreements_about(&self, subject: SubjectId) -> Result<Vec<DisagreementAbout>, RegistryError> {
        let rows: Vec<AboutRow> = sqlx::query_as(
            "select d.at, m.name as model, a.name as against, d.kind, \
               case when d.active_subject_id = $1 then d.active_similarity end as active_similarity, \
               case when d.candidate_subject_id = $1 then d.candidate_similarity end as candidate_similarity \
             from shadow_disagreements d join models m on m.id = d.model_id join models a on a.id = d.against_id \
             where d.active_subject_id = $1 or d.candidate_subject_id = $1 order by d.id desc",
        )
        .bind(subject.0)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(DisagreementAbout::try_from).collect()
    }

    /// The probes about which a candidate and the active model differed, latest first.
    pub async fn disagreements(&self, id: ModelId, page: PageRequest) -> Result<Page<Disagreement>, RegistryError> {
        let rows: Vec<DisagreementRow> = sqlx::query_as(
            "select d.id, d.at, g.name as gallery, m.name as against, d.kind, \
               d.active_subject_id, a.name as active_subject, d.active_similarity, d.active_threshold, \
               d.candidate_subject_id, c.name as candidate_subject, d.candidate_similarity, d.candidate_threshold \
             from shadow_disagreements d join galleries g on g.id = d.gallery_id join models m on m.id = d.against_id \
             left join subjects a on a.id = d.active_subject_id left join subjects c on c.id = d.candidate_subject_id \
             where d.model_id = $1 and d.id < $2 and g.erased_at is null and a.erased_at is null and c.erased_at is null \
             order by d.id desc limit $3",
        )
        .bind(id.0)
        .bind(page.before())
        .bind(page.rows_to_fetch())
        .fetch_all(&self.pool)
        .await?;
        let found: Result<Vec<_>, _> = rows.into_iter().map(Disagreement::try_from).collect();
        Ok(page.page(found?, |disagreement: &Disagreement| disagreement.id))
    }
}

/// What a disagreement is about.
const GONE: [&str; 3] =
    ["shadow_disagreement_gallery_fkey", "shadow_disagreement_active_fkey", "shadow_disagreement_candidate_fkey"];

async fn keep(
    connection: &mut PgConnection,
    comparison: &Comparison,
    kind: DisagreementKind,
) -> Result<(), sqlx::Error> {
    let Comparison { candidate, against, gallery, by_active, by_candidate } = comparison;
    sqlx::query(
        "insert into shadow_disagreements (id, model_id, against_id, gallery_id, kind, active_subject_id, \
           active_similarity, active_threshold, candidate_subject_id, candidate_similarity, candidate_threshold) \
         select $1, $2, $3, $4, $5, $6::uuid, $7::real, $8::real, $9::uuid, $10::real, $11::real \
         where exists (select from galleries where id = $4 and erased_at is null) \
         and not exists (select from subjects where id in ($6, $9) and erased_at is not null)",
    )
    .bind(Uuid::now_v7())
    .bind(candidate.0)
    .bind(against.0)
    .bind(gallery.0)
    .bind(kind.name())
    .bind(by_active.best.map(|(subject, _)| subject.0))
    .bind(by_active.best.map(|(_, similarity)| similarity))
    .bind(by_active.threshold)
    .bind(by_candidate.best.map(|(subject, _)| subject.0))
    .bind(by_candidate.best.map(|(_, similarity)| similarity))
    .bind(by_candidate.threshold)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "delete from shadow_disagreements where model_id = $1 and id <= ( \
           select id from shadow_disagreements where model_id = $1 order by id desc offset $2 limit 1)",
    )
    .bind(candidate.0)
    .bind(KEPT)
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(FromRow)]
struct AboutRow {
    at: DateTime<Utc>,
    model: String,
    against: String,
    kind: String,
    active_similarity: Option<f32>,
    candidate_similarity: Option<f32>,
}

impl TryFrom<AboutRow> for DisagreementAbout {
    type Error = RegistryError;

    fn try_from(row: AboutRow) -> Result<Self, RegistryError> {
        let AboutRow { at, model, against, kind, active_similarity, candidate_similarity } = row;
        let kind = DisagreementKind::parse(&kind).ok_or_else(|| unknown_kind(&kind))?;
        Ok(Self { at, model, against, kind, active_similarity, candidate_similarity })
    }
}

fn unknown_kind(kind: &str) -> DbError {
    sqlx::Error::Decode(format!("the kind {kind:?} is unknown").into()).into()
}

/// Deletes what was noted of a model.
pub(super) async fn forget(connection: &mut PgConnection, id: ModelId) -> Result<(), RegistryError> {
    for rest in
        ["delete from shadow_tallies where model_id = $1", "delete from shadow_disagreements where model_id = $1"]
    {
        sqlx::query(rest).bind(id.0).execute(&mut *connection).await?;
    }
    Ok(())
}

#[derive(FromRow)]
struct DisagreementRow {
    id: Uuid,
    at: DateTime<Utc>,
    gallery: String,
    against: String,
    kind: String,
    active_subject_id: Option<Uuid>,
    active_subject: Option<String>,
    active_similarity: Option<f32>,
    active_threshold: f32,
    candidate_subject_id: Option<Uuid>,
    candidate_subject: Option<String>,
    candidate_similarity: Option<f32>,
    candidate_threshold: f32,
}

impl TryFrom<DisagreementRow> for Disagreement {
    type Error = RegistryError;

    fn try_from(row: DisagreementRow) -> Result<Self, RegistryError> {
        Ok(Self {
            id: row.id,
            at: row.at,
            gallery: row.gallery,
            against: row.against,
            kind: DisagreementKind::parse(&row.kind).ok_or_else(|| unknown_kind(&row.kind))?,
            by_active: NamedOpinion {
                subject: row.active_subject_id.map(SubjectId).zip(row.active_subject),
                similarity: row.active_similarity,
                threshold: row.active_threshold,
            },
            by_candidate: NamedOpinion {
                subject: row.candidate_subject_id.map(SubjectId).zip(row.candidate_subject),
                similarity: row.candidate_similarity,
                threshold: row.candidate_threshold,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opinion(subject: u128, similarity: f32) -> Opinion {
        Opinion { best: Some((SubjectId(Uuid::from_u128(subject)), similarity)), threshold: 0.5 }
    }

    #[test]
    fn two_models_agree_on_a_person_or_that_it_is_nobody() {
        let nobody = Opinion { best: None, threshold: 0.5 };
        let kinds = [
            (opinion(1, 0.6), opinion(1, 0.5), None),
            (opinion(1, 0.4), opinion(2, 0.4), None),
            (opinion(1, 0.4), nobody, None),
            (opinion(1, 0.6), opinion(2, 0.6), Some(DisagreementKind::OtherSubject)),
            (opinion(1, 0.6), opinion(1, 0.4), Some(DisagreementKind::OnlyActive)),
            (opinion(1, 0.6), nobody, Some(DisagreementKind::OnlyActive)),
            (nobody, opinion(1, 0.6), Some(DisagreementKind::OnlyCandidate)),
            (opinion(1, 0.4), opinion(1, 0.6), Some(DisagreementKind::OnlyCandidate)),
        ];
        for (by_active, by_candidate, expected) in kinds {
            let (candidate, against, gallery) = (ModelId::new(), ModelId::new(), GalleryId(Uuid::nil()));
            let comparison = Comparison { candidate, against, gallery, by_active, by_candidate };
            assert_eq!(comparison.disagreement(), expected, "{comparison:?}");
        }
    }
}
