//! Writes a gallery to a file.

use std::io::Write;

use chrono::Utc;
use serde::Serialize;
use tokio::sync::mpsc;

use super::line::{Header, HeaderModel, write, write_header};
use super::{TransferError, find_model};
use crate::gallery::{Galleries, Record};
use crate::registry::{Model, ModelState, Registry};
use crate::types::Name;

/// What to write.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// Id or name.
    pub gallery: Name,
    /// Name or sha256 of the model whose embeddings are wanted; otherwise the active one.
    pub model: Option<String>,
    /// Whether to write chips.
    pub chips: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Exported {
    pub gallery: String,
    pub model: Option<String>,
    pub subjects: u64,
    pub faces: u64,
    /// Faces with neither an embedding of the model nor a chip that was asked for.
    pub left_out: u64,
    /// Chips that cannot be read, and are not in the file.
    pub unreadable_chips: u64,
}

/// Writes a gallery as it is now, whatever is written to it meanwhile. `progress` hears of faces, and of how many there
/// are.
pub async fn export(
    galleries: &Galleries,
    registry: &Registry,
    request: &ExportRequest,
    out: impl Write + Send + 'static,
    mut progress: impl FnMut(u64, u64),
) -> Result<Exported, TransferError> {
    let model = model_of(registry, request.model.as_deref()).await?;
    let mut snapshot = galleries.snapshot(request.gallery.as_str()).await?;
    galleries.note_export(snapshot.gallery.id, None).await?;
    let mut exported = Exported {
        gallery: snapshot.gallery.name.clone(),
        model: model.as_ref().map(|model| model.name.clone()),
        subjects: snapshot.subjects,
        ..Exported::default()
    };
    let gallery = Name::stored(snapshot.gallery.name.clone());
    let header = Header {
        gallery: Some(gallery),
        model: model.as_ref().map(|model| HeaderModel {
            name: model.name.clone(),
            sha256: model.sha256,
            dimension: model.dimension,
        }),
        policy: snapshot.gallery.policy,
        exported_at: Some(Utc::now()),
    };
    let (read, records) = mpsc::channel(2);
    let writing = tokio::task::spawn_blocking(move || write_all(out, &header, records));
    let total = snapshot.faces;
    loop {
        let mut records = snapshot.next(model.as_ref().map(|model| model.id), request.chips).await?;
        exported.count(&mut records);
        progress(exported.faces + exported.left_out, total);
        // The writer ends early only by an error, which is told below.
        if records.is_empty() || read.send(records).await.is_err() {
            break;
        }
    }
    exported.unreadable_chips = snapshot.unreadable.len() as u64;
    drop(read);
    let written = writing.await.map_err(|error| TransferError::Thread(error.to_string()))?;
    written.map_err(TransferError::Write)?;
    Ok(exported)
}

impl Exported {
    /// Takes faces out of which nothing useful is left; their subjects stay.
    fn count(&mut self, records: &mut [Record]) {
        for record in records {
            if let Some(face) = &record.face {
                if face.embedding.is_none() && face.chip.is_none() {
                    record.face = None;
                    self.left_out += 1;
                } else {
                    self.faces += 1;
                }
            }
        }
    }
}

fn write_all(mut out: impl Write, header: &Header, mut records: mpsc::Receiver<Vec<Record>>) -> std::io::Result<()> {
    write_header(&mut out, header)?;
    while let Some(records) = records.blocking_recv() {
        for record in &records {
            write(&mut out, record)?;
        }
    }
    out.flush()
}

/// Whose embeddings are meant. A database that no server has run on yet may hold those of one model.
pub async fn model_of(registry: &Registry, asked: Option<&str>) -> Result<Option<Model>, TransferError> {
    let mut known = registry.list().await?;
    if let Some(asked) = asked {
        return find_model(&known, asked).cloned().map(Some);
    }
    match known.iter().position(|model| model.state == ModelState::Active) {
        Some(active) => Ok(Some(known.swap_remove(active))),
        None if known.len() <= 1 => Ok(known.pop()),
        None => Err(TransferError::NoActiveModel),
    }
}
