//! Whether decisions change: some examples are looked for among all others, by CompreFace's embeddings and by ours.
//!
//! Both sides decide at 0.5 of CompreFace's scale: CompreFace by the example that is nearest, we by the subject whose template is,
//! with the example itself left out of it.

use std::collections::{BTreeMap, HashMap};

use sqlx::FromRow;
use uuid::Uuid;

use super::MigrationError;
use super::compreface::{CompreFace, Service};
use super::report::{ChangedDecision, Comparison, Decision};
use crate::gallery::{Galleries, GalleryError, Record};
use crate::service::Loaded;
use crate::types::{FaceId, ModelId, Name, SimilarityScale};

/// Where both sides know a face.
const KNOWN: f64 = 0.5;

/// Embeddings that are read at once.
const PAGE: i64 = 1000;

/// How CompreFace's networks are scaled: `similarity_coefficients` of embedding-calculator/src/services/facescan/plugins, by the
/// end of what a row says of its calculator. One that names no network is the first of its kind.
const SCALES: [(&str, f64, f64); 13] = [
    ("20180402-114759", 1.1817961, 5.291995557),
    ("20180408-102900", 1.1362496, 5.803152427),
    ("inception_resnetv1_casia_masked", 1.1145709, 4.554903071),
    ("arcface_mobilefacenet", 1.26538905, 5.552089201),
    ("arcface_r100_v1", 1.23132175, 6.602259425),
    ("arcface_resnet34", 1.2462842, 5.981636853),
    ("arcface_resnet50", 1.2375747, 5.973354538),
    ("arcface-r50-msfdrop75", 1.2350148, 7.071431642),
    ("arcface-r100-msfdrop75", 1.224676, 6.322647217),
    ("arcface_mobilefacenet_casia_masked", 1.22507105, 7.321198934),
    ("facenet.Calculator", 1.1817961, 5.291995557),
    ("Facenet2018", 1.1817961, 5.291995557),
    ("insightface.Calculator", 1.26538905, 5.552089201),
];

fn scale(calculator: &str) -> Option<SimilarityScale> {
    let network = calculator.rsplit('@').next().unwrap_or(calculator);
    let (_, middle, steepness) = SCALES.iter().find(|(name, ..)| *name == network)?;
    Some(SimilarityScale::new(*middle, *steepness))
}

#[derive(FromRow)]
struct Example {
    id: Uuid,
    subject: String,
    embedding: Vec<f64>,
    calculator: String,
}

/// An example that is looked for.
struct Probe {
    id: FaceId,
    subject: String,
    /// Of length 1, as CompreFace has it.
    theirs: Vec<f32>,
    calculator: String,
    scale: SimilarityScale,
    nearest: Option<(f32, String)>,
    /// As we have it.
    ours: Option<Vec<f32>>,
    best: Option<(f32, String)>,
}

/// Compares the decisions of both sides on `count` examples of all services together, always the same ones. `tell` is told
/// of each that changes.
pub async fn compare(
    compreface: &CompreFace,
    galleries: &Galleries,
    model: &Loaded,
    count: u32,
    mut tell: impl FnMut(&ChangedDecision) -> Result<(), MigrationError>,
) -> Result<Comparison, MigrationError> {
    let mut comparison = Comparison::default();
    let ours = SimilarityScale::around(model.calibration.threshold.get());
    for (service, ids) in compreface.sample(count).await? {
        let mut probes = compreface.probes(service, &ids, &mut comparison).await?;
        compreface.find_nearest(service, &mut probes).await?;
        find_best(galleries, &service.gallery, model.model.id, &mut probes).await?;
        for probe in probes {
            match probe.decisions(ours) {
                Some((before, after)) => {
                    if let Some(changed) = comparison.add(&probe, &service.gallery, before, after) {
                        tell(&changed)?;
                    }
                }
                None => comparison.not_comparable += 1,
            }
        }
    }
    Ok(comparison)
}

impl Comparison {
    fn add(&mut self, probe: &Probe, gallery: &Name, before: Decision, after: Decision) -> Option<ChangedDecision> {
        self.probes += 1;
        let own = Some(here(&probe.subject));
        for (decision, right, wrong) in [
            (&before, &mut self.right_before, &mut self.wrong_before),
            (&after, &mut self.right_after, &mut self.wrong_after),
        ] {
            let said = decision.subject.as_deref().map(here);
            *right += u64::from(said == own);
            *wrong += u64::from(said.is_some() && said != own);
        }
        if before.subject.as_deref().map(here) == after.subject.as_deref().map(here) {
            self.same += 1;
            return None;
        }
        self.changed += 1;
        let gallery = gallery.to_string();
        let subject = probe.subject.clone();
        Some(ChangedDecision { identity: probe.id, subject, gallery, code: "decision_changed", before, after })
    }
}

/// How a subject of CompreFace is called here.
fn here(subject: &str) -> String {
    crate::types::nfc(subject.trim()).into_owned()
}

impl Probe {
    /// What CompreFace answers and what we do; `None` if it is not here, or nobody else is on either side.
    fn decisions(&self, ours: SimilarityScale) -> Option<(Decision, Decision)> {
        self.ours.as_ref()?;
        Some((decide(self.nearest.as_ref()?, self.scale), decide(self.best.as_ref()?, ours)))
    }
}

fn decide((similarity, subject): &(f32, String), scale: SimilarityScale) -> Decision {
    let similarity = scale.of(*similarity);
    Decision { subject: (similarity >= KNOWN).then(|| subject.clone()), similarity }
}

impl CompreFace {
    /// Examples by service, chosen by their ids alone.
    async fn sample(&self, count: u32) -> Result<Vec<(&Service, Vec<Uuid>)>, MigrationError> {
        let keys: Vec<&str> = self.recognition().map(|service| service.api_key.expose()).collect();
        let chosen: Vec<(String, Uuid)> = sqlx::query_as(
            "select s.api_key, e.id from embedding e join subject s on s.id = e.subject_id where s.api_key = any($1) \
             order by md5(e.id::text) limit $2",
        )
        .bind(keys)
        .bind(i64::from(count))
        .fetch_all(&self.pool)
        .await
        .map_err(MigrationError::Database)?;
        let mut by_key: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
        for (key, id) in chosen {
            by_key.entry(key).or_default().push(id);
        }
        let with_ids = |service| Some((service, by_key.remove(service_key(service))?));
        Ok(self.recognition().filter_map(with_ids).collect())
    }

    async fn probes(
        &self,
        service: &Service,
        ids: &[Uuid],
        comparison: &mut Comparison,
    ) -> Result<Vec<Probe>, MigrationError> {
        let examples: Vec<Example> = sqlx::query_as(
            "select e.id, coalesce(s.subject_name, '') as subject, e.embedding, e.calculator from embedding e \
             join subject s on s.id = e.subject_id where s.api_key = $1 and e.id = any($2) order by e.id",
        )
        .bind(service_key(service))
        .bind(ids)
        .fetch_all(&self.pool)
        .await
        .map_err(MigrationError::Database)?;
        let mut probes = Vec::with_capacity(examples.len());
        for Example { id, subject, embedding, calculator } in examples {
            match (scale(&calculator), unit(&embedding)) {
                (Some(scale), Some(theirs)) => {
                    let (nearest, ours, best) = (None, None, None);
                    probes.push(Probe { id: FaceId(id), subject, theirs, calculator, scale, nearest, ours, best });
                }
                _ => comparison.not_comparable += 1,
            }
        }
        Ok(probes)
    }

    /// Goes through all examples of a service for those that are nearest.
    async fn find_nearest(&self, service: &Service, probes: &mut [Probe]) -> Result<(), MigrationError> {
        let mut after = Uuid::nil();
        loop {
            let page: Vec<Example> = sqlx::query_as(
                "select e.id, coalesce(s.subject_name, '') as subject, e.embedding, e.calculator from embedding e \
                 join subject s on s.id = e.subject_id where s.api_key = $1 and e.id > $2 order by e.id limit $3",
            )
            .bind(service_key(service))
            .bind(after)
            .bind(PAGE)
            .fetch_all(&self.pool)
            .await
            .map_err(MigrationError::Database)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for example in &page {
                let Some(vector) = unit(&example.embedding) else { continue };
                for probe in probes.iter_mut() {
                    // Embeddings of two networks say nothing of each other.
                    if probe.id.0 != example.id && probe.calculator == example.calculator {
                        keep_better(&mut probe.nearest, dot(&probe.theirs, &vector), &example.subject);
                    }
                }
            }
        }
    }
}

fn service_key(service: &Service) -> &str {
    service.api_key.expose()
}

/// Goes through a gallery of ours: at first for the probes, then for the subjects that resemble them most.
async fn find_best(
    galleries: &Galleries,
    gallery: &Name,
    model: ModelId,
    probes: &mut [Probe],
) -> Result<(), MigrationError> {
    let wanted: HashMap<FaceId, usize> = probes.iter().enumerate().map(|(at, probe)| (probe.id, at)).collect();
    let mut found = HashMap::new();
    each_subject(galleries, gallery, model, |_, faces| {
        found.extend(faces.iter().filter(|(id, _)| wanted.contains_key(id)).cloned());
    })
    .await?;
    for probe in probes.iter_mut() {
        probe.ours = found.remove(&probe.id);
    }
    each_subject(galleries, gallery, model, |subject, faces| {
        let sum = faces.iter().fold(Vec::new(), |sum, (_, vector)| added(sum, vector, 1.0));
        let template = normalised(sum.clone());
        for probe in probes.iter_mut() {
            let Some(ours) = &probe.ours else { continue };
            let is_own = faces.iter().any(|(id, _)| *id == probe.id);
            let similarity = match (is_own, faces.len()) {
                (true, 0 | 1) => continue,
                (true, _) => dot(ours, &normalised(added(sum.clone(), ours, -1.0))),
                (false, _) => dot(ours, &template),
            };
            keep_better(&mut probe.best, similarity, subject);
        }
    })
    .await
}

/// Hands on the subjects of a gallery that have faces with an embedding, as it is now.
async fn each_subject(
    galleries: &Galleries,
    gallery: &Name,
    model: ModelId,
    mut take: impl FnMut(&str, &[(FaceId, Vec<f32>)]),
) -> Result<(), MigrationError> {
    let mut snapshot = match galleries.snapshot(gallery.as_str()).await {
        // Nothing was taken over.
        Err(GalleryError::GalleryNotFound(_)) => return Ok(()),
        snapshot => snapshot?,
    };
    let mut subject = (None, String::new());
    let mut faces: Vec<(FaceId, Vec<f32>)> = Vec::new();
    loop {
        let records = snapshot.next(Some(model), false).await?;
        let is_last = records.is_empty();
        for Record { subject: next, face } in records {
            if next.id != subject.0 {
                if !faces.is_empty() {
                    take(&subject.1, &faces);
                    faces.clear();
                }
                subject = (next.id, next.name.to_string());
            }
            if let Some((id, vector)) = face.and_then(|face| face.id.zip(face.embedding)) {
                faces.push((id, vector.as_slice().iter().map(|half| half.to_f32()).collect()));
            }
        }
        if is_last {
            break;
        }
    }
    if !faces.is_empty() {
        take(&subject.1, &faces);
    }
    Ok(())
}

/// The first of two that are equally good stays.
fn keep_better(best: &mut Option<(f32, String)>, similarity: f32, subject: &str) {
    if best.as_ref().is_none_or(|(before, _)| similarity > *before) {
        *best = Some((similarity, subject.to_owned()));
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `sum` and so many times `vector`.
fn added(mut sum: Vec<f32>, vector: &[f32], times: f32) -> Vec<f32> {
    sum.resize(vector.len(), 0.0);
    sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += times * value);
    sum
}

/// Of length 1, but for one that has none.
fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = dot(&vector, &vector).sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
    vector
}

/// CompreFace scales embeddings to length 1 before it compares them; `None`: this one has none.
fn unit(embedding: &[f64]) -> Option<Vec<f32>> {
    let norm = embedding.iter().map(|value| value * value).sum::<f64>().sqrt();
    (norm > 0.0 && norm.is_finite()).then(|| embedding.iter().map(|value| (value / norm) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_calculator_of_compreface_has_its_scale() {
        let known = |calculator: &str| scale(calculator).map(|scale| scale.of(0.3));
        for calculator in [
            "facenet.Calculator",
            "facenet.Calculator@20180402-114759",
            "insightface.Calculator@arcface-r100-msfdrop75",
            "insightface.Calculator",
            "Facenet2018",
        ] {
            assert!(known(calculator).is_some(), "{calculator}");
        }
        assert_eq!(known("facenet.Calculator"), known("facenet.Calculator@20180402-114759"));
        assert_ne!(known("facenet.Calculator"), known("insightface.Calculator"));
        assert_eq!(known("rude_carnie.Calculator@x"), None);
    }

    fn probe(nearest: (f32, &str), best: (f32, &str)) -> Probe {
        let owned = |(similarity, subject): (f32, &str)| Some((similarity, subject.to_owned()));
        Probe {
            id: FaceId::new(),
            subject: "Ada ".to_owned(),
            theirs: Vec::new(),
            calculator: "facenet.Calculator".to_owned(),
            scale: SimilarityScale::new(1.0, 5.0),
            nearest: owned(nearest),
            ours: Some(Vec::new()),
            best: owned(best),
        }
    }

    #[test]
    fn decisions_are_compared_by_who_is_known() {
        // Both scales have 0.5 at a cosine of 0.5.
        let (ours, gallery) = (SimilarityScale::around(0.5), Name::try_from("staff".to_owned()).unwrap());
        let mut comparison = Comparison::default();
        let mut add = |nearest, best| {
            let probe = probe(nearest, best);
            let (before, after) = probe.decisions(ours).unwrap();
            comparison.add(&probe, &gallery, before, after).is_some()
        };
        assert!(!add((0.6, "Ada "), (0.7, "Ada")));
        assert!(!add((0.4, "Ada "), (0.3, "Bob")));
        assert!(add((0.4, "Ada "), (0.6, "Ada")));
        assert!(add((0.6, "Bob"), (0.6, "Ada")));
        assert!(add((0.6, "Ada "), (0.6, "Bob")));
        let Comparison { probes, same, changed, right_before, right_after, wrong_before, wrong_after, .. } = comparison;
        assert_eq!((probes, same, changed), (5, 2, 3));
        assert_eq!((right_before, right_after, wrong_before, wrong_after), (2, 3, 1, 1));
        let missing = Probe { ours: None, ..probe((0.6, "Ada"), (0.6, "Ada")) };
        assert!(missing.decisions(ours).is_none());
    }
}
