//! An enrolled gallery as what is evaluated: its embeddings as they are stored, and what is known of its subjects.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::super::{CliError, progress_bar};
use super::Photos;
use super::grouping::Person;
use super::material::Material;
use crate::config::Config;
use crate::evaluation::Faces;
use crate::gallery::{FaceRecord, Galleries, Metadata, Record};
use crate::registry::{Model, Registry};
use crate::transfer::TransferError;
use crate::types::Name;

/// The embeddings of a model, by default the active one, of all faces of a gallery.
pub async fn read(config: &Config, gallery: &Name, model: Option<&str>) -> Result<(Model, Material), CliError> {
    let database = crate::app::reach_database(&config.database).await?;
    let (galleries, registry) = (Galleries::new(database.pools()), Registry::new(database.pools()));
    let records = records(&galleries, &registry, gallery, model).await;
    database.close().await;
    let (model, records) = records?;
    Ok((model, material(records)?))
}

async fn records(
    galleries: &Galleries,
    registry: &Registry,
    gallery: &Name,
    model: Option<&str>,
) -> Result<(Model, Vec<Record>), CliError> {
    let model = crate::transfer::model_of(registry, model).await?.ok_or(TransferError::NoActiveModel)?;
    let mut snapshot = galleries.snapshot(gallery.as_str()).await.map_err(TransferError::from)?;
    let bar = progress_bar(Some(snapshot.faces), "{bar:30} {human_pos}/{human_len} faces  {per_sec}  {eta} left");
    let mut records = Vec::new();
    loop {
        let more = snapshot.next(Some(model.id), false).await.map_err(TransferError::from)?;
        if more.is_empty() {
            break;
        }
        bar.inc(more.len() as u64);
        records.extend(more);
    }
    bar.finish_and_clear();
    Ok((model, records))
}

/// Each image counts once, and not at all if it is there for several subjects.
fn material(records: Vec<Record>) -> Result<Material, CliError> {
    let mut photos = Photos::default();
    let mut names: HashMap<[u8; 32], HashSet<Name>> = HashMap::new();
    for record in &records {
        if let Some(image) = record.face.as_ref().and_then(|face| face.image_sha256) {
            names.entry(image).or_default().insert(record.subject.name.clone());
        }
    }
    let (mut vectors, mut shown, mut people) = (Vec::new(), Vec::new(), Vec::<Person>::new());
    let mut seen = HashSet::new();
    for Record { subject, face } in records {
        let Some(FaceRecord { image_sha256, embedding, .. }) = face else { continue };
        photos.total += 1;
        let Some(embedding) = embedding else {
            photos.without_embedding += 1;
            continue;
        };
        match image_sha256 {
            Some(image) if names[&image].len() > 1 => photos.under_several_names += 1,
            Some(image) if !seen.insert(image) => photos.copies += 1,
            _ => {
                // The faces of a subject come together.
                if people.last().is_none_or(|person| person.name != subject.name.as_str()) {
                    people.push(Person { name: subject.name.to_string(), fields: fields(&subject.metadata) });
                }
                vectors.push(unit(embedding.as_slice().iter().map(|value| value.to_f32()).collect()));
                shown.push(people.len() - 1);
            }
        }
    }
    photos.embedded = vectors.len();
    Ok(Material { photos, faces: Faces::new(vectors, shown)?, pairs: None, people })
}

/// Rounding to 16 bits changes the length a little.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|value| *value /= norm);
    vector
}

/// Texts, numbers and whether something is so; what has parts of its own makes no groups.
fn fields(metadata: &Metadata) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    metadata.as_object().iter().filter_map(|(field, value)| Some((field.clone(), text(value)?))).collect()
}

#[cfg(test)]
mod tests {
    use half::f16;
    use serde_json::json;

    use super::*;
    use crate::gallery::SubjectRecord;
    use crate::types::StoredEmbedding;

    #[test]
    fn each_image_counts_once() {
        let record = |name: &str, image: u8, embedded: bool| {
            let metadata = json!({"sex": "f", "age": 40, "staff": true, "tags": ["a"], "note": ""});
            let subject = SubjectRecord {
                id: None,
                name: Name::try_from(name.to_owned()).unwrap(),
                metadata: Metadata::try_from(metadata).unwrap(),
                created_at: None,
                expires_at: None,
            };
            let embedding = embedded.then(|| StoredEmbedding::new(vec![f16::from_f32(0.6), f16::from_f32(0.8)]));
            let image_sha256 = Some([image; 32]).filter(|_| image > 0);
            Record { subject, face: Some(FaceRecord { image_sha256, embedding, ..FaceRecord::default() }) }
        };
        let records = [
            record("Ada", 1, true),
            record("Ada", 1, true),
            record("Ada", 2, true),
            record("Ada", 0, true),
            record("Bob", 2, true),
            record("Bob", 3, false),
            record("Eve", 0, true),
        ];
        let Material { photos, faces, people, .. } = material(records.to_vec()).unwrap();
        let counts =
            (photos.total, photos.embedded, photos.copies, photos.under_several_names, photos.without_embedding);
        assert_eq!(counts, (7, 3, 1, 2, 1));
        assert_eq!(faces.by_subject(), [vec![0, 1], vec![2]]);
        assert!((faces.similarity(0, 2) - 1.0).abs() < 1e-6);
        assert_eq!(people.iter().map(|person| person.name.as_str()).collect::<Vec<_>>(), ["Ada", "Eve"]);
        let known: Vec<(&str, &str)> = people[0].fields.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(known, [("age", "40"), ("sex", "f"), ("staff", "true")]);
    }
}
