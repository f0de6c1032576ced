//! Takes a file into a gallery.

use std::io::BufRead;

use serde::Serialize;
use tokio::sync::mpsc;

use super::line::HeaderModel;
use super::source::{ParsedRecords, Source};
use super::{TransferError, find_model};
use crate::gallery::{DEFAULT_GALLERY_NAME, Galleries, Ids, Intake, IntakeError, Record, Stored};
use crate::registry::{Model, ModelState, Registry, RegistryError};
use crate::types::{FaceId, Name, SubjectId, hex};

/// What to do with a file.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Id or name; otherwise the one that the file names. Created if there is none.
    pub gallery: Option<Name>,
    /// Name or sha256 of the model whose embeddings the file holds; otherwise the one that the file names, or the
    /// active one.
    pub model: Option<String>,
    pub ids: Ids,
    /// Threads that check lines.
    pub threads: usize,
}

/// What an import has done so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Imported {
    pub gallery: String,
    pub gallery_created: bool,
    /// Whose embeddings were stored.
    pub model: Option<String>,
    /// Whose embeddings were left out because it is retired; the faces are embedded by their chips.
    pub retired_model: Option<String>,
    /// Whether the model is new to the database.
    pub model_registered: bool,
    /// The model that searches use; `None` before a server has run.
    pub active_model: Option<String>,
    pub subjects_created: u64,
    pub faces: u64,
    /// Faces that were left out because they exist.
    pub skipped: u64,
    /// Faces, and subjects without one, that were left out because they have expired.
    pub expired: u64,
    /// Faces that a server embeds by their chips.
    pub to_embed: u64,
    /// Faces that are not found, having neither an embedding of the active model nor a chip.
    pub not_found: u64,
    /// Everything up to this line was stored.
    pub lines: u64,
    /// Bytes of the file up to there.
    #[serde(skip)]
    pub bytes: u64,
}

/// An import under way.
pub struct Import {
    galleries: Galleries,
    registry: Registry,
    request: ImportRequest,
    imported: Imported,
}

/// What a batch holds, to be asked after it was given away.
struct Outline {
    lines: Vec<(u64, Option<FaceId>, Option<SubjectId>)>,
}

impl Import {
    pub fn new(galleries: Galleries, registry: Registry, request: ImportRequest) -> Self {
        Self { galleries, registry, request, imported: Imported::default() }
    }

    /// What was stored, also when [`Self::run`] failed.
    pub fn imported(&self) -> &Imported {
        &self.imported
    }

    /// Stores the lines of `reader`, and says after each batch how far it is.
    pub async fn run(
        &mut self,
        reader: impl BufRead + Send + 'static,
        mut progress: impl FnMut(&Imported),
    ) -> Result<(), TransferError> {
        let opened = tokio::task::spawn_blocking(move || Source::open(reader)).await;
        let (source, header) = opened.map_err(|error| TransferError::Thread(error.to_string()))??;
        let named = self.model(header.model.as_ref()).await?;
        let dimension = named.as_ref().map(|model| model.dimension as usize);
        // What is stored of a retired model is deleted again.
        let (retired, model) = match named {
            Some(model) if model.state == ModelState::Retired => (Some(model.name), None),
            model => (None, model),
        };
        self.imported.retired_model = retired;
        let active = match self.registry.active().await {
            Ok(active) => Some(active),
            Err(RegistryError::NoActiveModel) => None,
            Err(error) => return Err(error.into()),
        };
        self.imported.model = model.as_ref().map(|model| model.name.clone());
        self.imported.active_model = active.as_ref().map(|model| model.name.clone());
        let gallery = self.request.gallery.clone().or(header.gallery).unwrap_or_else(default_gallery);
        self.imported.gallery = gallery.to_string();
        // Before a server has run, the embeddings at hand are the best guess of what one will search.
        let searched = active.is_none() || active.map(|active| active.id) == model.as_ref().map(|model| model.id);
        let intake = self.galleries.intake(gallery, header.policy, model.as_ref().map(|m| m.id), self.request.ids);
        let batches = read_ahead(source, dimension, self.request.threads);
        self.store(intake, batches, searched, &mut progress).await
    }

    async fn store(
        &mut self,
        mut intake: Intake,
        mut batches: mpsc::Receiver<Result<ParsedRecords, TransferError>>,
        searched: bool,
        progress: &mut impl FnMut(&Imported),
    ) -> Result<(), TransferError> {
        let mut any = false;
        while let Some(batch) = batches.recv().await {
            let ParsedRecords { mut records, lines, bytes } = batch?;
            if let Some(model) = &self.imported.retired_model {
                leave_out_embeddings(&mut records, &lines, model)?;
            }
            let outline = Outline::of(&records, &lines);
            let stored = intake.store(records).await.map_err(|error| outline.locate(error))?;
            self.add(stored, searched);
            (self.imported.lines, self.imported.bytes) = (lines.last().copied().unwrap_or_default(), bytes);
            any = true;
            progress(&self.imported);
        }
        if !any {
            // The gallery itself.
            let stored = intake.store(Vec::new()).await?;
            self.imported.gallery_created = stored.gallery_created;
        }
        Ok(intake.finish().await?)
    }

    /// `searched` says whether the embeddings are those that searches use.
    fn add(&mut self, stored: Stored, searched: bool) {
        let imported = &mut self.imported;
        imported.gallery_created |= stored.gallery_created;
        imported.subjects_created += stored.subjects_created;
        imported.faces += stored.faces;
        imported.skipped += stored.skipped;
        imported.expired += stored.expired;
        // A face has an embedding, a chip or both.
        imported.to_embed += if searched { stored.faces - stored.embeddings } else { stored.chips };
        imported.not_found += if searched { 0 } else { stored.faces - stored.chips };
    }

    /// Whose embeddings the lines hold.
    async fn model(&mut self, named: Option<&HeaderModel>) -> Result<Option<Model>, TransferError> {
        let known = self.registry.list().await?;
        if let Some(asked) = &self.request.model {
            return match (find_model(&known, asked), named) {
                (Err(TransferError::NoSuchModel(_)), Some(named))
                    if *asked == named.name || asked.eq_ignore_ascii_case(&hex(&named.sha256)) =>
                {
                    self.register(named).await.map(Some)
                }
                (found, _) => found.cloned().map(Some),
            };
        }
        let Some(named) = named else {
            return Ok(known.into_iter().find(|model| model.state == ModelState::Active));
        };
        match known.into_iter().find(|model| model.sha256 == named.sha256) {
            Some(model) if model.dimension != named.dimension => Err(RegistryError::OtherDimension {
                name: model.name,
                registered: model.dimension,
                given: named.dimension,
            }
            .into()),
            Some(model) => Ok(Some(model)),
            None => self.register(named).await.map(Some),
        }
    }

    async fn register(&mut self, model: &HeaderModel) -> Result<Model, TransferError> {
        self.imported.model_registered = true;
        Ok(self.registry.register(&model.name, model.sha256, model.dimension).await?)
    }
}

/// Faces keep their chips alone; one without is refused, as nobody would find it.
fn leave_out_embeddings(records: &mut [Record], lines: &[u64], model: &str) -> Result<(), TransferError> {
    for (record, number) in records.iter_mut().zip(lines) {
        let Some(face) = &mut record.face else { continue };
        if face.chip.is_none() {
            return Err(TransferError::RetiredModel { number: *number, model: model.to_owned() });
        }
        (face.embedding, face.norm) = (None, None);
    }
    Ok(())
}

fn default_gallery() -> Name {
    Name::try_from(DEFAULT_GALLERY_NAME.to_owned()).expect("the name is short and has no NUL")
}

/// Reads and checks batches on a thread, one ahead of the one that is stored.
fn read_ahead<R: BufRead + Send + 'static>(
    mut source: Source<R>,
    dimension: Option<usize>,
    threads: usize,
) -> mpsc::Receiver<Result<ParsedRecords, TransferError>> {
    let (read, batches) = mpsc::channel(1);
    // Not one of the runtime's, which would wait for it at the end, even if it waits for input.
    std::thread::spawn(move || {
        while let Some(batch) = source.next_batch(dimension, threads).transpose() {
            let failed = batch.is_err();
            // Nobody listens after a failure.
            if read.blocking_send(batch).is_err() || failed {
                break;
            }
        }
    });
    batches
}

impl Outline {
    fn of(records: &[Record], lines: &[u64]) -> Self {
        let id = |record: &Record| record.face.as_ref().and_then(|face| face.id);
        Self { lines: records.iter().zip(lines).map(|(record, line)| (*line, id(record), record.subject.id)).collect() }
    }

    /// Says which line is to blame.
    fn locate(&self, error: IntakeError) -> TransferError {
        // The later of two of one file.
        let blamed = self.lines.iter().rfind(|(_, face, subject)| match &error {
            IntakeError::FaceExists(id) | IntakeError::FaceElsewhere { id, .. } => *face == Some(*id),
            IntakeError::SubjectExists { id, .. } => *subject == Some(*id),
            IntakeError::BeingErased
            | IntakeError::NameIsId { .. }
            | IntakeError::ModelRetired
            | IntakeError::Gallery(_) => false,
        });
        match blamed {
            Some((number, ..)) => TransferError::Refused { number: *number, source: error },
            None => error.into(),
        }
    }
}
