//! Takes in what a source yields: the engine's queues are kept full, and what is done is stored in batches.

use std::collections::HashMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::MigrationError;
use super::item::{Item, Refusal, Source};
use super::reading::{Reader, Taken, Why};
use super::report::{Event, Migrated, Refused};
use crate::gallery::{Galleries, Ids, Intake, Metadata, Record, SubjectRecord};
use crate::types::{ModelId, Name};

/// Faces of a batch at most.
const BATCH: usize = 256;

/// How long a face waits for others of its batch: what is stored is not lost when the migration is stopped.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way of a source into galleries.
pub struct Migration {
    galleries: Galleries,
    reader: Reader,
    /// Photos in work at once.
    jobs: usize,
}

/// What is to be done about an item.
enum Step {
    Read(Item),
    /// It was taken over before.
    Passed,
    Refuse(Refused),
}

/// What was done about an item.
enum Done {
    Taken { gallery: Name, subject: Name, taken: Box<Taken> },
    Passed,
    Refused(Refused),
}

/// Into which gallery, with embeddings of which model.
type Place = (Name, ModelId);

/// What was read, on its way into the galleries.
struct Storing<'a, T> {
    galleries: &'a Galleries,
    intakes: HashMap<Place, Intake>,
    pending: HashMap<Place, Vec<Record>>,
    /// Records that are pending.
    count: usize,
    migrated: &'a mut Migrated,
    began: Instant,
    tell: T,
}

impl Migration {
    pub fn new(galleries: Galleries, reader: Reader, jobs: usize) -> Self {
        Self { galleries, reader, jobs: jobs.max(1) }
    }

    pub fn galleries(&self) -> &Galleries {
        &self.galleries
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Takes over all that a source yields. What was done is in `migrated`, also when this fails.
    pub async fn run(
        &self,
        source: Source,
        migrated: &mut Migrated,
        tell: impl FnMut(Event<'_>) -> Result<(), MigrationError>,
    ) -> Result<(), MigrationError> {
        self.reader.model().model.name.clone_into(&mut migrated.model);
        let steps = source
            .pages
            .then(|page| self.sieve(page))
            .map_ok(|steps| stream::iter(steps.into_iter().map(Ok)))
            .try_flatten()
            .map(|step| self.work(step))
            .buffered(self.jobs);
        let (sender, receiver) = mpsc::channel(BATCH);
        // Beside each other, so that the engine has work while a batch is stored.
        let reading = async move {
            let mut steps = pin!(steps);
            while let Some(done) = steps.next().await {
                if sender.send(done).await.is_err() {
                    break;
                }
            }
        };
        let storing = Storing {
            galleries: &self.galleries,
            intakes: HashMap::new(),
            pending: HashMap::new(),
            count: 0,
            migrated,
            began: Instant::now(),
            tell,
        };
        let ((), stored) = tokio::join!(reading, storing.run(receiver));
        stored
    }

    /// Passes over what is there, before anything is read or looked at.
    async fn sieve(&self, page: Result<Vec<Item>, MigrationError>) -> Result<Vec<Step>, MigrationError> {
        let page = page?;
        let ids: Vec<_> = page.iter().map(|item| item.id).collect();
        let owners = self.galleries.owners_of_faces(&ids).await?;
        let step = |item: Item| match owners.get(&item.id) {
            None => Step::Read(item),
            Some((id, name)) if *name == item.gallery.as_str() || id.to_string() == item.gallery.as_str() => {
                Step::Passed
            }
            Some((_, name)) => {
                let detail = format!("a face with the id {} is in the gallery {name:?} already", item.id);
                Step::Refuse(refused(item, Refusal::new("exists_elsewhere", detail)))
            }
        };
        Ok(page.into_iter().map(step).collect())
    }

    async fn work(&self, step: Result<Step, MigrationError>) -> Result<Done, MigrationError> {
        let mut item = match step? {
            Step::Read(item) => item,
            Step::Passed => return Ok(Done::Passed),
            Step::Refuse(refused) => return Ok(Done::Refused(refused)),
        };
        let subject = match Name::try_from(item.subject.trim().to_owned()) {
            Ok(subject) => subject,
            Err(error) => return Ok(Done::Refused(refused(item, Refusal::new("invalid_name", error.to_string())))),
        };
        match self.reader.take(&mut item).await {
            Ok(taken) => Ok(Done::Taken { gallery: item.gallery, subject, taken: Box::new(taken) }),
            Err(Why::Refused(why)) => Ok(Done::Refused(refused(item, why))),
            Err(Why::Failed(error)) => Err(error),
        }
    }
}

fn refused(item: Item, why: Refusal) -> Refused {
    Refused { identity: item.identity, subject: item.subject, gallery: item.gallery.to_string(), why }
}

impl<T: FnMut(Event<'_>) -> Result<(), MigrationError>> Storing<'_, T> {
    async fn run(mut self, mut done: mpsc::Receiver<Result<Done, MigrationError>>) -> Result<(), MigrationError> {
        let mut failed = None;
        let mut deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout_at(deadline, done.recv()).await {
                Ok(Some(Ok(done))) => self.add(done)?,
                Ok(Some(Err(error))) => {
                    failed = Some(error);
                    break;
                }
                Ok(None) => break,
                Err(_) => {}
            }
            if self.count >= BATCH || tokio::time::Instant::now() >= deadline {
                self.store().await?;
                deadline = tokio::time::Instant::now() + PATIENCE;
            }
        }
        // What was done before something failed stays.
        self.store().await?;
        for (_, intake) in self.intakes.drain() {
            intake.finish().await?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn add(&mut self, done: Done) -> Result<(), MigrationError> {
        match done {
            Done::Passed => self.migrated.already_there += 1,
            Done::Refused(refused) => {
                self.migrated.refused += 1;
                *self.migrated.reasons.entry(refused.why.code).or_default() += 1;
                (self.tell)(Event::Refused(&refused))?;
            }
            Done::Taken { gallery, subject, taken } => {
                self.migrated.several_faces += u64::from(taken.has_others);
                self.migrated.whole_crops += u64::from(taken.is_whole);
                let subject = SubjectRecord {
                    id: None,
                    name: subject,
                    metadata: Metadata::default(),
                    created_at: None,
                    expires_at: None,
                };
                let record = Record { subject, face: taken.face };
                self.pending.entry((gallery, taken.model)).or_default().push(record);
                self.count += 1;
            }
        }
        Ok(())
    }

    /// Stores what is pending, all of a gallery's or nothing.
    async fn store(&mut self) -> Result<(), MigrationError> {
        for (place, records) in self.pending.drain() {
            let (gallery, model) = place.clone();
            let name = gallery.to_string();
            let begin = || self.galleries.intake(gallery, None, Some(model), Ids::SkipExisting);
            let stored = self.intakes.entry(place).or_insert_with(begin).store(records).await?;
            let migrated = &mut *self.migrated;
            migrated.taken_over += stored.faces;
            migrated.already_there += stored.skipped;
            migrated.subjects_created += stored.subjects_created;
            *migrated.galleries.entry(name.clone()).or_default() += stored.faces;
            if stored.gallery_created {
                migrated.galleries_created.push(name);
            }
        }
        self.count = 0;
        let migrated = &mut *self.migrated;
        migrated.seconds = self.began.elapsed().as_secs_f64();
        migrated.photos_per_second =
            (migrated.taken_over + migrated.refused) as f64 / migrated.seconds.max(f64::MIN_POSITIVE);
        (self.tell)(Event::Progress(self.migrated))
    }
}
