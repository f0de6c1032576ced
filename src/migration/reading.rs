//! From what a source has of a face to what is stored: found, aligned, embedded.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat};
use sha2::{Digest, Sha256};

use super::MigrationError;
use super::item::{Content, Item, Refusal};
use crate::config::RecognitionConfig;
use crate::engine::{Engine, EngineError, Step};
use crate::gallery::FaceRecord;
use crate::limits::Bill;
use crate::registry::Model;
use crate::service::{Loaded, Photo, PhotoFace, PhotoReader, ServiceError};
use crate::types::{Chip, Embedding, ModelId, StoredEmbedding};
use crate::vision::{self, DecodeError, DecodeLimits, Wanted};

/// How photos are called in errors.
const FIELD: &str = "photo";

/// How long to wait when the engine has as much in work as it takes.
const PAUSE: Duration = Duration::from_millis(200);

/// Which face of a photo is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum FaceChosen {
    /// The only one; a photo with several is refused
    Only,
    /// The largest
    #[default]
    Largest,
}

/// Finds and embeds faces with the engine of this process.
pub struct Reader {
    engine: Engine,
    photos: PhotoReader,
    limits: DecodeLimits,
    model: Loaded,
    face: FaceChosen,
    /// The model that made the embeddings of the source.
    embeddings_of: Option<Model>,
}

/// A face that is ready to be stored.
pub(super) struct Taken {
    /// `None`: the subject is there without a face.
    pub face: Option<FaceRecord>,
    /// Whose embedding it has.
    pub model: ModelId,
    /// Whether the photo shows others as well.
    pub has_others: bool,
    /// Whether no face was found in a crop.
    pub is_whole: bool,
}

/// Why a face is not taken.
pub(super) enum Why {
    Refused(Refusal),
    /// The migration cannot go on.
    Failed(MigrationError),
}

/// A face of an image, and of which image.
struct Seen {
    face: PhotoFace,
    image: Bytes,
    has_others: bool,
    is_whole: bool,
}

impl Reader {
    /// `embeddings_of` made the embeddings of the source; without it they are of no use.
    pub fn new(
        engine: Engine,
        config: &RecognitionConfig,
        model: Loaded,
        face: FaceChosen,
        embeddings_of: Option<Model>,
    ) -> Self {
        let limits = DecodeLimits {
            max_bytes: config.max_image_bytes,
            max_pixels: config.max_image_pixels,
            max_memory: config.decode_budget,
        };
        let photos = PhotoReader::new(engine.clone(), config);
        Self { engine, photos, limits, model, face, embeddings_of }
    }

    /// The model that embeds.
    pub fn model(&self) -> &Loaded {
        &self.model
    }

    /// Reads, finds and embeds the face of an item.
    pub(super) async fn take(&self, item: &mut Item) -> Result<Taken, Why> {
        let placeholder = Ok(Content::SubjectAlone);
        let content = std::mem::replace(&mut item.content, placeholder).map_err(Why::Refused)?;
        let seen = match content {
            Content::PhotoFile(path) => self.photo(self.read_file(&path).await?).await?,
            Content::Stored(image) => self.photo(image.read().await.map_err(Why::Failed)?).await?,
            Content::Crop(image) => self.crop(image).await?,
            Content::Chip(image) => self.chip(image).await?,
            Content::Embedding(numbers) => return self.numbers(item, numbers),
            Content::SubjectAlone => return Ok(self.nobody()),
        };
        self.embed(item, seen).await
    }

    fn nobody(&self) -> Taken {
        Taken { face: None, model: self.model.model.id, has_others: false, is_whole: false }
    }

    async fn read_file(&self, path: &Path) -> Result<Bytes, Why> {
        let refuse = |error: std::io::Error| {
            let code = if error.kind() == std::io::ErrorKind::NotFound { "no_file" } else { "unreadable_file" };
            Why::Refused(Refusal::new(code, format!("{}: {error}", path.display())))
        };
        let about = tokio::fs::metadata(path).await.map_err(refuse)?;
        let (limit, actual) = (self.limits.max_bytes, usize::try_from(about.len()).unwrap_or(usize::MAX));
        if actual > limit {
            return Err(refused_image(&DecodeError::TooManyBytes { limit, actual }));
        }
        tokio::fs::read(path).await.map(Bytes::from).map_err(refuse)
    }

    async fn photo(&self, image: Bytes) -> Result<Seen, Why> {
        let (wanted, most) = match self.face {
            FaceChosen::Only => (Wanted::default(), usize::MAX),
            // The others are not needed, but told of if they show at first sight.
            FaceChosen::Largest => (Wanted::one(), 2),
        };
        let photo = self.look(&image, wanted, most).await?;
        let count = photo.faces.len();
        if self.face == FaceChosen::Only && count > 1 {
            let detail = format!("it shows {count} faces; --face largest takes the largest");
            return Err(Why::Refused(Refusal::new("multiple_faces", detail)));
        }
        Ok(Seen { face: photo.largest()?, image, has_others: count > 1, is_whole: false })
    }

    async fn crop(&self, image: Bytes) -> Result<Seen, Why> {
        let photo = self.look(&image, Wanted::one(), 1).await?;
        if !photo.faces.is_empty() {
            return Ok(Seen { face: photo.largest()?, image, has_others: false, is_whole: false });
        }
        let (whole, limits) = (image.clone(), self.limits);
        let made =
            self.engine.on_cpu(Step::Align, move || as_chip(&whole, &limits)).await.map_err(ServiceError::from)?;
        let chip = self.chip(made?).await?;
        Ok(Seen { image, is_whole: true, ..chip })
    }

    async fn chip(&self, image: Bytes) -> Result<Seen, Why> {
        let wanted = Wanted { aligned: true, ..Wanted::one() };
        let face = self.look(&image, wanted, 1).await?.largest()?;
        Ok(Seen { face, image, has_others: false, is_whole: false })
    }

    /// Looks at an image, as often as it takes until the engine has room for it.
    async fn look(&self, image: &Bytes, wanted: Wanted, most: usize) -> Result<Photo, ServiceError> {
        loop {
            match self.photos.read(FIELD, image.clone(), wanted, most, &Bill::none()).await {
                Err(error) if is_overload(&error) => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    async fn embedding(&self, chip: &Chip) -> Result<Embedding, ServiceError> {
        loop {
            match self.engine.embed(&self.model.embedder, vec![chip.clone()]).await.map_err(ServiceError::from) {
                Err(error) if is_overload(&error) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
                Ok(mut embeddings) => {
                    let missing = || ServiceError::Internal("the model gave no embedding".to_owned());
                    return embeddings.pop().ok_or_else(missing);
                }
            }
        }
    }

    async fn embed(&self, item: &Item, seen: Seen) -> Result<Taken, Why> {
        let Seen { face, image, has_others, is_whole } = seen;
        let pixels = face.chip.clone();
        let encoding = move || (vision::encode_chip(&pixels), Sha256::digest(&image).into());
        let encoded = self.engine.on_cpu(Step::Chips, encoding);
        let (encoded, embedding) = tokio::join!(encoded, self.embedding(&face.chip));
        let (embedding, (chip, image_sha256)) = (embedding?, encoded.map_err(ServiceError::from)?);
        let chip = chip.map_err(|error| ServiceError::Internal(error.to_string()))?;
        let found = face.found();
        let face = FaceRecord {
            id: Some(item.id),
            metadata: item.metadata.clone(),
            created_at: item.created_at,
            expires_at: None,
            image_sha256: Some(image_sha256),
            bounding_box: Some(found.bounding_box),
            landmarks: Some(found.landmarks),
            detection_score: Some(found.detection_score),
            quality: Some(found.quality),
            embedding: Some(StoredEmbedding::from(&embedding)),
            norm: Some(embedding.norm()),
            chip: Some(chip),
        };
        Ok(Taken { face: Some(face), model: self.model.model.id, has_others, is_whole })
    }

    /// An embedding is taken as it is, if it is said whose it is.
    fn numbers(&self, item: &Item, numbers: Vec<f32>) -> Result<Taken, Why> {
        let refuse = |code, detail: String| Why::Refused(Refusal::new(code, detail));
        let Some(model) = &self.embeddings_of else {
            let detail =
                "all there is of it is an embedding, which another model made; --model says that it was one of ours";
            return Err(refuse("embedding_of_other_model", detail.to_owned()));
        };
        if numbers.len() != model.dimension as usize {
            let detail = format!("it has {} numbers, where {} gives {}", numbers.len(), model.name, model.dimension);
            return Err(refuse("embedding_of_other_model", detail));
        }
        let embedding =
            Embedding::normalised(numbers).map_err(|error| refuse("invalid_embedding", error.to_string()))?;
        let face = FaceRecord {
            id: Some(item.id),
            metadata: item.metadata.clone(),
            created_at: item.created_at,
            embedding: Some(StoredEmbedding::from(&embedding)),
            ..FaceRecord::default()
        };
        Ok(Taken { face: Some(face), model: model.id, has_others: false, is_whole: false })
    }
}

/// All of an image as an image of a chip's size.
fn as_chip(image: &[u8], limits: &DecodeLimits) -> Result<Bytes, Why> {
    let pixels = vision::decode(image, limits).map_err(|error| refused_image(&error))?;
    let small = image::imageops::resize(&pixels, Chip::SIDE, Chip::SIDE, FilterType::Triangle);
    let mut file = std::io::Cursor::new(Vec::new());
    let written = DynamicImage::from(small).write_to(&mut file, ImageFormat::Png);
    written.map_err(|error| ServiceError::Internal(error.to_string()))?;
    Ok(file.into_inner().into())
}

fn is_overload(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Overloaded | ServiceError::Engine(EngineError::Overloaded))
}

fn refused_image(error: &DecodeError) -> Why {
    let code = match error {
        DecodeError::Empty => "empty_image",
        DecodeError::Unsupported { .. } => "unsupported_image",
        DecodeError::Corrupt { .. } => "corrupt_image",
        DecodeError::TooManyBytes { .. } | DecodeError::TooManyPixels { .. } | DecodeError::TooMuchMemory { .. } => {
            "image_too_large"
        }
    };
    Why::Refused(Refusal::new(code, error.to_string()))
}

/// What is wrong with one image is told, and nothing else fails for it.
impl From<ServiceError> for Why {
    fn from(error: ServiceError) -> Self {
        let code = match &error {
            ServiceError::Image { source, .. } => return refused_image(source),
            ServiceError::NoFace { .. } => "no_face",
            ServiceError::MultipleFaces { .. } => "multiple_faces",
            ServiceError::InvalidField { .. } => "invalid_image",
            ServiceError::Engine(EngineError::Inference(_) | EngineError::Panicked | EngineError::Embedding(_)) => {
                "not_embedded"
            }
            _ => return Self::Failed(error.into()),
        };
        Self::Refused(Refusal::new(code, error.to_string()))
    }
}
