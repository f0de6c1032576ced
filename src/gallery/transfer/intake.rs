//! Takes many faces into a gallery, a batch at a time: all of a batch or nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::super::chips::seal_all;
use super::super::enroll::{OnDoubt, await_turn};
use super::super::quota::check_quota;
use super::super::{Galleries, GalleryError, Metadata, Policy, as_id, check_dimension};
use super::placed::{Placed, copy_chip_keys, copy_embeddings, copy_faces};
use super::{Ids, IntakeError, Record, SubjectRecord};
use crate::audit::Action;
use crate::db::{MODELS_LOCK, Topic, Transaction, notify};
use crate::sealing::SealedChip;
use crate::types::{FaceId, GalleryId, ModelId, Name, Scope, SubjectId};

/// From this many faces on, Postgres is asked to look anew at what its tables hold: plans made for an empty table
/// would serve a full one badly until it does so by itself.
const ANALYZE_FROM: u64 = 10_000;

/// Tells the advisory locks of imports from others. Any constant of ours serves.
const INTAKE_LOCK: i64 = 0x696e_7461_6b65;

/// How often a batch whose new subjects others are creating at the same time looks again.
const ATTEMPTS: usize = 5;

/// The way into one gallery.
pub struct Intake {
    galleries: Galleries,
    gallery: Name,
    policy: Option<Policy>,
    model: Option<ModelId>,
    ids: Ids,
    /// Known once a batch was stored.
    into: Option<GalleryId>,
    faces: u64,
}

/// What a batch added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    pub gallery_created: bool,
    pub subjects_created: u64,
    pub faces: u64,
    /// Of these faces, those that came with an embedding.
    pub embeddings: u64,
    /// Of these faces, those that came with a chip.
    pub chips: u64,
    /// Faces that were left out because they exist.
    pub skipped: u64,
    /// Faces, and subjects without one, that were left out because they have expired.
    pub expired: u64,
}

impl Galleries {
    /// The way into a gallery, given by id or name, for faces whose embeddings `model` made. It is created, with the
    /// policy, by the first batch if there is none.
    pub fn intake(&self, gallery: Name, policy: Option<Policy>, model: Option<ModelId>, ids: Ids) -> Intake {
        Intake { galleries: self.clone(), gallery, policy, model, ids, into: None, faces: 0 }
    }
}

impl Intake {
    /// Stores a batch. Faces are added to the subjects of the gallery that have their subject's name, or to new ones.
    pub async fn store(&mut self, mut records: Vec<Record>) -> Result<Stored, IntakeError> {
        let expired = leave_out_expired(&mut records);
        // A batch may be large, and others of this gallery are waited for. Only few imports go on at a time.
        let mut transaction = self.galleries.pool.without_limits().begin().await?;
        self.check_embeddings(&mut transaction, &records).await?;
        // Locks in the order in which everybody takes them.
        self.hold_model(&mut transaction).await?;
        let (gallery, gallery_created) = self.hold(&mut transaction).await?;
        await_turn(&mut transaction, gallery, OnDoubt::Allow).await?;
        await_other_batches(&mut transaction, gallery).await?;
        let skipped = self.choose_face_ids(&mut transaction, gallery, &mut records).await?;
        let (subjects, subjects_created) = self.find_or_create_subjects(&mut transaction, gallery, &records).await?;
        if subjects_created > 0 {
            check_quota(&mut transaction, gallery).await?;
        }
        let mut placed: Vec<Placed> =
            records.into_iter().filter_map(|record| self.place(record, &subjects)).collect::<Result<_, _>>()?;
        self.seal(&mut placed).await?;
        let faces = copy_faces(&mut transaction, gallery, &placed).await?;
        let chips = copy_chip_keys(&mut transaction, &placed).await?;
        let embeddings = match self.model {
            Some(model) => copy_embeddings(&mut transaction, gallery, model, &placed).await?,
            None => 0,
        };
        let created = subjects_created;
        self.note(&mut transaction, (gallery, gallery_created), &subjects, json!({"faces": faces, "created": created}))
            .await?;
        notify(&mut *transaction, Topic::Changes).await?;
        transaction.commit().await?;
        self.into = Some(gallery);
        self.faces += faces;
        Ok(Stored { gallery_created, subjects_created, faces, embeddings, chips, skipped, expired })
    }

    /// Notes a batch, as part of it.
    async fn note(
        &self,
        transaction: &mut Transaction,
        (gallery, is_new): (GalleryId, bool),
        subjects: &HashMap<Name, SubjectId>,
        details: Value,
    ) -> Result<(), GalleryError> {
        let into = &self.galleries;
        if is_new {
            into.note(transaction, Action::GalleryCreate, (gallery, &[]), json!({"by": "import"})).await?;
        }
        let mut subjects: Vec<SubjectId> = subjects.values().copied().collect();
        subjects.sort_unstable();
        Ok(into.note(transaction, Action::FacesImport, (gallery, &subjects), details).await?)
    }

    /// After the last batch.
    pub async fn finish(self) -> Result<(), GalleryError> {
        if self.faces > 0 {
            // Some may lack an embedding of the active model; servers make it from their chips.
            notify(&self.galleries.pool, Topic::Models).await?;
        }
        if self.faces >= ANALYZE_FROM {
            // A table whose index is being built would hold up the import for minutes; autovacuum comes to it later.
            let analyze = "analyze (skip_locked) subjects, faces, chip_keys, embeddings, templates";
            sqlx::query(analyze).execute(&self.galleries.pool.without_limits()).await?;
        }
        Ok(())
    }

    async fn check_embeddings(&self, connection: &mut PgConnection, records: &[Record]) -> Result<(), GalleryError> {
        let embeddings = || records.iter().filter_map(|record| record.face.as_ref()?.embedding.as_ref());
        if embeddings().next().is_none() {
            return Ok(());
        }
        let model = self.model.ok_or(GalleryError::Inconsistent("an embedding came without its model"))?;
        let dimension = self.galleries.known_dimension(connection, model).await?;
        embeddings().try_for_each(|embedding| check_dimension(dimension, embedding.dimension()))
    }

    /// Keeps the model from being retired until the transaction ends: what is left of a retired one is deleted.
    async fn hold_model(&self, transaction: &mut Transaction) -> Result<(), IntakeError> {
        let Some(model) = self.model else { return Ok(()) };
        transaction.lock_shared(MODELS_LOCK).await.map_err(GalleryError::from)?;
        // A statement of its own, so that it sees what whoever held the lock before has done.
        let retired: bool =
            sqlx::query_scalar("select exists (select from models where id = $1 and state = 'retired')")
                .bind(model.0)
                .fetch_one(&mut **transaction)
                .await?;
        if retired { Err(IntakeError::ModelRetired) } else { Ok(()) }
    }

    /// Finds the gallery, or creates it before the first batch, and keeps it until the transaction ends.
    async fn hold(&self, connection: &mut PgConnection) -> Result<(GalleryId, bool), GalleryError> {
        if let Some(id) = self.into {
            // Should it have been deleted, it stays so.
            return self.galleries.hold_gallery(connection, &id.to_string()).await.map(|(id, _)| (id, false));
        }
        let policy = self.policy.map(Policy::checked).transpose()?;
        let created = match self.galleries.hold_gallery(connection, self.gallery.as_str()).await {
            Ok((id, _)) => return Ok((id, false)),
            Err(GalleryError::GalleryNotFound(_)) if self.galleries.scope == Scope::All => sqlx::query(
                "insert into galleries (id, name, policy) values ($1, $2, $3) \
                 on conflict (name) where erased_at is null do nothing",
            )
            .bind(GalleryId::new().0)
            .bind(self.gallery.as_str())
            .bind(policy.map(Json))
            .execute(&mut *connection)
            .await?
            .rows_affected(),
            Err(error) => return Err(error),
        };
        self.galleries.hold_gallery(connection, self.gallery.as_str()).await.map(|(id, _)| (id, created == 1))
    }

    /// Sees to it that no face has an id that is taken, and returns how many were left out for that. A face of another
    /// gallery is no reason to leave one out: nobody would find it in this one.
    async fn choose_face_ids(
        &self,
        connection: &mut PgConnection,
        gallery: GalleryId,
        records: &mut Vec<Record>,
    ) -> Result<u64, IntakeError> {
        if self.ids == Ids::New {
            return Ok(0);
        }
        let id_of = |record: &Record| record.face.as_ref().and_then(|face| face.id);
        let ids: Vec<Uuid> = records.iter().filter_map(id_of).map(|id| id.0).collect();
        let taken: Vec<(Uuid, Uuid, String, bool)> = sqlx::query_as(
            "select f.id, f.gallery_id, g.name, g.erased_at is not null or s.erased_at is not null from faces f \
             join galleries g on g.id = f.gallery_id join subjects s on s.id = f.subject_id where f.id = any($1)",
        )
        .bind(ids)
        .fetch_all(connection)
        .await?;
        if taken.iter().any(|(.., is_being_erased)| *is_being_erased) {
            return Err(IntakeError::BeingErased);
        }
        if let Some((id, _, name, _)) = taken.iter().find(|(_, owner, ..)| *owner != gallery.0) {
            return Err(IntakeError::FaceElsewhere { id: FaceId(*id), gallery: name.clone() });
        }
        let mut taken: HashSet<FaceId> = taken.into_iter().map(|(id, ..)| FaceId(id)).collect();
        let before = records.len();
        let mut twice = None;
        records.retain(|record| {
            let Some(id) = id_of(record) else { return true };
            let free = taken.insert(id);
            if !free {
                twice.get_or_insert(id);
            }
            free
        });
        match twice {
            Some(id) if self.ids == Ids::Keep => Err(IntakeError::FaceExists(id)),
            _ => Ok((before - records.len()) as u64),
        }
    }

    /// The subject of each name of the batch, and how many of them are new. None can be deleted before the
    /// transaction ends.
    async fn find_or_create_subjects(
        &self,
        connection: &mut PgConnection,
        gallery: GalleryId,
        records: &[Record],
    ) -> Result<(HashMap<Name, SubjectId>, u64), IntakeError> {
        let mut wanted: BTreeMap<&str, &SubjectRecord> = BTreeMap::new();
        for record in records {
            wanted.entry(record.subject.name.as_str()).or_insert(&record.subject);
        }
        let mut subjects = HashMap::with_capacity(wanted.len());
        let mut created = 0;
        for _ in 0..ATTEMPTS {
            for (id, name, expired) in subjects_named(connection, gallery, wanted.keys().copied()).await? {
                if expired {
                    return Err(IntakeError::BeingErased);
                }
                if let Some(subject) = wanted.remove(name.as_str()) {
                    subjects.insert(subject.name.clone(), SubjectId(id));
                }
            }
            if wanted.is_empty() {
                return Ok((subjects, created));
            }
            let new: Vec<(SubjectId, &SubjectRecord)> =
                wanted.values().map(|subject| (self.subject_id(subject), *subject)).collect();
            refuse_taken_ids(connection, gallery, &new).await?;
            created += insert_subjects(connection, gallery, &new).await?;
        }
        Err(GalleryError::Inconsistent("subjects come and go").into())
    }

    fn subject_id(&self, subject: &SubjectRecord) -> SubjectId {
        subject.id.filter(|_| self.ids != Ids::New).unwrap_or_else(SubjectId::new)
    }

    /// `None` for a record without a face.
    fn place(&self, record: Record, subjects: &HashMap<Name, SubjectId>) -> Option<Result<Placed, GalleryError>> {
        let face = record.face?;
        let id = face.id.filter(|_| self.ids != Ids::New).unwrap_or_else(FaceId::new);
        let subject = subjects.get(&record.subject.name).copied();
        let subject = subject.ok_or(GalleryError::Inconsistent("a subject was not stored"));
        Some(subject.map(|subject| Placed { id, subject, face, sealed: None }))
    }

    /// Takes the chips and seals them.
    async fn seal(&self, placed: &mut [Placed]) -> Result<(), GalleryError> {
        let chips = placed.iter_mut().filter_map(|placed| Some((placed.id, placed.face.chip.take()?))).collect();
        let mut sealed: HashMap<FaceId, SealedChip> =
            seal_all(&self.galleries.keyring, chips).await?.into_iter().collect();
        placed.iter_mut().for_each(|placed| placed.sealed = sealed.remove(&placed.id));
        Ok(())
    }
}

/// Batches go one at a time into a gallery. Those of two imports that share subjects could otherwise block each other
/// for good: each holds many, and some come into being while it looks for them.
async fn await_other_batches(transaction: &mut Transaction, gallery: GalleryId) -> Result<(), GalleryError> {
    let (high, low) = gallery.0.as_u64_pair();
    // Two galleries that fall on one key merely wait for each other.
    let key = (high ^ low).cast_signed() ^ INTAKE_LOCK;
    Ok(transaction.lock(key).await?)
}

/// What has expired by a time of its own would be erased again at once.
fn leave_out_expired(records: &mut Vec<Record>) -> u64 {
    let now = Utc::now();
    let is_over = |time: Option<DateTime<Utc>>| time.is_some_and(|time| time <= now);
    let before = records.len();
    records.retain(|record| !is_over(record.subject.expires_at));
    let mut left_out = (before - records.len()) as u64;
    for record in records {
        left_out += u64::from(record.face.take_if(|face| is_over(face.expires_at)).is_some());
    }
    left_out
}

/// The subjects of a gallery that have one of the names, locked in the order of their ids, as elsewhere, and whether they have
/// expired.
async fn subjects_named(
    connection: &mut PgConnection,
    gallery: GalleryId,
    names: impl Iterator<Item = &str>,
) -> Result<Vec<(Uuid, String, bool)>, GalleryError> {
    let names: Vec<&str> = names.collect();
    Ok(sqlx::query_as(
        "select id, name, coalesce(expires_at <= now(), false) from subjects where gallery_id = $1 and name = any($2) and erased_at is null \
         order by id for no key update",
    )
    .bind(gallery.0)
    .bind(names)
    .fetch_all(connection)
    .await?)
}

/// Subjects cannot be created under an id that is taken, nor under a name that is somebody's id: the id would win.
async fn refuse_taken_ids(
    connection: &mut PgConnection,
    gallery: GalleryId,
    new: &[(SubjectId, &SubjectRecord)],
) -> Result<(), IntakeError> {
    let mut ids: HashSet<Uuid> = HashSet::with_capacity(new.len());
    for (id, subject) in new {
        if !ids.insert(id.0) {
            return Err(IntakeError::SubjectExists { id: *id, name: subject.name.to_string() });
        }
    }
    let by_name: HashMap<Uuid, (SubjectId, &Name)> =
        new.iter().filter_map(|(id, subject)| Some((as_id(subject.name.as_str())?, (*id, &subject.name)))).collect();
    let asked: Vec<Uuid> = ids.iter().chain(by_name.keys()).copied().collect();
    let found: Vec<(Uuid, Uuid, bool)> = sqlx::query_as(
        "select s.id, s.gallery_id, s.erased_at is not null or g.erased_at is not null from subjects s \
         join galleries g on g.id = s.gallery_id where s.id = any($1)",
    )
    .bind(asked)
    .fetch_all(connection)
    .await?;
    if found.iter().any(|(id, _, is_being_erased)| *is_being_erased && ids.contains(id)) {
        return Err(IntakeError::BeingErased);
    }
    for (taken, ..) in &found {
        if let Some((id, subject)) = new.iter().find(|(id, _)| id.0 == *taken) {
            return Err(IntakeError::SubjectExists { id: *id, name: subject.name.to_string() });
        }
    }
    let here = found.into_iter().filter(|(_, owner, _)| *owner == gallery.0).map(|(id, ..)| id);
    for id in here.chain(ids) {
        if let Some((_, name)) = by_name.get(&id).filter(|(own, _)| own.0 != id) {
            return Err(IntakeError::NameIsId { name: name.to_string() });
        }
    }
    Ok(())
}

/// Returns how many were created; the names of the others exist by now.
async fn insert_subjects(
    connection: &mut PgConnection,
    gallery: GalleryId,
    new: &[(SubjectId, &SubjectRecord)],
) -> Result<u64, GalleryError> {
    let ids: Vec<Uuid> = new.iter().map(|(id, _)| id.0).collect();
    let names: Vec<&str> = new.iter().map(|(_, subject)| subject.name.as_str()).collect();
    let metadata: Vec<Json<&Metadata>> = new.iter().map(|(_, subject)| Json(&subject.metadata)).collect();
    let created: Vec<Option<DateTime<Utc>>> = new.iter().map(|(_, subject)| subject.created_at).collect();
    let expires: Vec<Option<DateTime<Utc>>> = new.iter().map(|(_, subject)| subject.expires_at).collect();
    Ok(sqlx::query(
        "insert into subjects (id, gallery_id, name, metadata, created_at, expires_at) \
         select n.id, $1, n.name, n.metadata, coalesce(n.created_at, now()), n.expires_at \
         from unnest($2::uuid[], $3::text[], $4::jsonb[], $5::timestamptz[], $6::timestamptz[]) \
           as n (id, name, metadata, created_at, expires_at) \
         on conflict on constraint subject_name_key do nothing",
    )
    .bind(gallery.0)
    .bind(ids)
    .bind(names)
    .bind(metadata)
    .bind(created)
    .bind(expires)
    .execute(connection)
    .await?
    .rows_affected())
}
