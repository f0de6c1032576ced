//! Photos in: who is it, is it that one, is there a face.

use axum::Json;

use super::answers::{Answer, Face, FaceWith, OfSubject, Shown, Similarity, Subjects, Verification};
use super::collection::Collection;
use super::examples::example_id;
use super::failure::Failure;
use super::options::Options;
use super::upload::Images;
use crate::http::extract::Path;
use crate::service::answers::Match;
use crate::service::requests::{Count, DetectRequest, FileBytes, IdentifyRequest, Score};
use crate::service::{CompareEach, Each, EachSimilarity, Recognition, Reference};
use crate::types::Name;
use crate::vision::{Detail, Wanted};

/// POST /recognition/recognize: the subjects that each face resembles most, however unlike.
pub async fn recognize(
    recognition: Recognition,
    Collection(gallery): Collection,
    images: Images<1>,
) -> Result<Json<Answer<FaceWith<Subjects>>>, Failure> {
    let options = Options::of(&images.parameters)?;
    let [image] = images.open()?;
    let identified = recognition.identify(identification(image, gallery, &options)).await?;
    let shown = Shown::by(&recognition, &options);
    let faces = identified.faces.into_iter().map(|found| FaceWith {
        face: shown.face(&found.face, found.embedding),
        more: Subjects { subjects: found.matches.into_iter().map(|one| of_subject(&shown, one)).collect() },
    });
    answered(faces.collect(), &options, &recognition)
}

fn identification(image: FileBytes, gallery: Name, options: &Options) -> IdentifyRequest {
    IdentifyRequest {
        top_k: options.top_k,
        max_faces: options.most_faces,
        min_score: options.min_score,
        // Two faces of a photo may resemble one subject most.
        unique_subjects: false,
        returned: options.plugins.extras(),
        crop: !options.detect_faces,
        ..IdentifyRequest::new(image, gallery)
    }
}

pub fn of_subject(shown: &Shown<'_>, one: Match) -> OfSubject {
    OfSubject { similarity: shown.similarity(one.similarity, one.probability), subject: one.subject }
}

/// POST /detection/detect
pub async fn detect(recognition: Recognition, images: Images<1>) -> Result<Json<Answer<Face>>, Failure> {
    let options = Options::of(&images.parameters)?;
    let [image] = images.open()?;
    let request = DetectRequest {
        image,
        max_faces: options.most_faces,
        min_score: options.min_score,
        detail: Detail::default(),
        min_face: None,
        returned: options.plugins.extras(),
        aligned: false,
    };
    let detected = recognition.detect(request).await?;
    let shown = Shown::by(&recognition, &options);
    let faces = detected.faces.into_iter().map(|found| shown.face(&found.face, found.embedding));
    answered(faces.collect(), &options, &recognition)
}

/// POST /recognition/faces/{face}/verify: every face of a photo, compared with an example.
pub async fn verify_example(
    recognition: Recognition,
    Collection(gallery): Collection,
    Path(face): Path<String>,
    images: Images<1>,
) -> Result<Json<Answer<FaceWith<OfSubject>>>, Failure> {
    let options = Options::of(&images.parameters)?;
    let face = example_id(&face)?;
    let [image] = images.open()?;
    let (reference, each) = (Reference::Face(face, gallery), Each::Photo(image));
    let compared = recognition.compare_each(CompareEach { reference, each, wanted: wanted(&options) }).await?;
    let shown = Shown::by(&recognition, &options);
    let subject = compared.subject.unwrap_or_default();
    let faces = compared.each.iter().filter_map(|one| with_face(&shown, one)).map(|FaceWith { face, more }| FaceWith {
        face,
        more: OfSubject { subject: subject.clone(), similarity: more },
    });
    answered(faces.collect(), &options, &recognition)
}

/// POST /verification/verify: the only face of one photo, compared with every face of another.
pub async fn verify(recognition: Recognition, images: Images<2>) -> Result<Json<Answer<Verification>>, Failure> {
    let options = Options::of(&images.parameters)?;
    let [source, target] = images.open()?;
    let (reference, each) = (Reference::Photo(source), Each::Photo(target));
    let compared = recognition.compare_each(CompareEach { reference, each, wanted: wanted(&options) }).await?;
    let shown = Shown::by(&recognition, &options);
    let source = compared.reference.ok_or_else(Failure::no_face)?;
    let verification = Verification {
        source_image_face: shown.embedded(&source.face, &source.embedding),
        face_matches: compared.each.iter().filter_map(|one| with_face(&shown, one)).collect(),
        plugins_versions: options.versions(&recognition),
    };
    Ok(Json(Answer { result: vec![verification], plugins_versions: None }))
}

/// Which faces of photos are compared.
fn wanted(options: &Options) -> Wanted {
    Wanted {
        min_score: options.min_score.map_or(0.0, Score::get),
        faces: options.most_faces.map_or(usize::MAX, Count::get),
        ..Wanted::default()
    }
}

fn with_face(shown: &Shown<'_>, one: &EachSimilarity) -> Option<FaceWith<Similarity>> {
    let face = shown.embedded(one.face.as_ref()?, &one.embedding);
    Some(FaceWith { face, more: shown.similarity(one.similarity, one.probability) })
}

/// An answer with a face at least.
fn answered<T>(result: Vec<T>, options: &Options, recognition: &Recognition) -> Result<Json<Answer<T>>, Failure> {
    if result.is_empty() {
        return Err(Failure::no_face());
    }
    Ok(Json(Answer { result, plugins_versions: options.versions(recognition) }))
}
