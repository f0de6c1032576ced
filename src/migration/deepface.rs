//! DeepFace's stores: the pickles that `DeepFace.find` keeps beside photos (`ds_model_*.pkl`, deepface/modules/recognition.py of its
//! repository), and the PostgreSQL of `DeepFace.register` (deepface/modules/database/postgres.py).
//!
//! A pickle is a program. Here it is read as data, without executing it: lists, dictionaries, texts and numbers are understood,
//! and one that wants to call anything is refused.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use image::{ImageFormat, RgbImage};
use serde::Deserialize;
use serde_pickle::DeOptions;
use sqlx::{FromRow, PgPool};

use super::MigrationError;
use super::compreface::connect;
use super::item::{Content, Item, Refusal, Source, derived_id};
use crate::config::Secret;
use crate::gallery::Metadata;
use crate::types::Name;

/// Rows that are read at once, each with a crop of half a megabyte.
const PAGE: i64 = 32;

/// Identities by which it is found out how they lie in the folder of photos.
const LOOKED_AT: usize = 1000;

/// A row of a pickle. It has more that is not needed.
#[derive(Debug, PartialEq, Deserialize)]
struct Representation {
    /// The path of the photo, as DeepFace read it.
    identity: String,
    embedding: Option<Vec<f32>>,
}

/// Where the photos of a store are.
pub struct Photos {
    root: PathBuf,
    /// So many parts of the path of each identity lie above the folder.
    skipped: usize,
}

impl Photos {
    /// Identities are paths, as they were on the machine of DeepFace: as many parts of them are left out as has most found.
    fn new(root: PathBuf, identities: &[&str]) -> Self {
        let looked_at = &identities[..identities.len().min(LOOKED_AT)];
        let deepest = looked_at.iter().map(|identity| parts(identity).len()).max().unwrap_or_default();
        let found = |skipped: usize| {
            let there =
                looked_at.iter().filter(|identity| within(&root, identity, skipped).is_some_and(|it| it.is_file()));
            there.count()
        };
        // The first of those that are equally good.
        let mut best = (0, 0);
        for skipped in 0..deepest {
            let count = found(skipped);
            if count > best.0 {
                best = (count, skipped);
            }
        }
        Self { root, skipped: best.1 }
    }

    fn file(&self, identity: &str) -> Option<PathBuf> {
        within(&self.root, identity, self.skipped).filter(|path| path.is_file())
    }

    /// The person's folder, or the stem of a photo that lies in none.
    fn subject(&self, identity: &str) -> String {
        let parts = parts(identity);
        match parts.get(self.skipped..).unwrap_or_default() {
            [.., folder, _] => (*folder).to_owned(),
            [file] => stem(file),
            [] => stem(parts.last().copied().unwrap_or_default()),
        }
    }
}

/// Of either kind of system.
fn parts(identity: &str) -> Vec<&str> {
    identity.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect()
}

/// `None`: it leads out of the folder.
fn within(root: &Path, identity: &str, skipped: usize) -> Option<PathBuf> {
    let parts = parts(identity);
    let below = parts.get(skipped..).filter(|below| !below.is_empty() && !below.contains(&".."))?;
    Some(below.iter().fold(root.to_owned(), |path, part| path.join(part)))
}

/// A name that is no file's stays as it is.
fn stem(file: &str) -> String {
    match file.rsplit_once('.') {
        Some((stem, end))
            if !stem.is_empty() && ["jpg", "jpeg", "png"].contains(&end.to_ascii_lowercase().as_str()) =>
        {
            stem.to_owned()
        }
        _ => file.to_owned(),
    }
}

/// The photos of a pickle, which lie in `photos`, else beside it.
pub fn pickle(path: &Path, photos: Option<&Path>, gallery: &Name) -> Result<Source, MigrationError> {
    let file = File::open(path).map_err(|source| MigrationError::Read { path: path.to_owned(), source })?;
    let read: Result<Vec<Representation>, _> = serde_pickle::from_reader(BufReader::new(file), DeOptions::new());
    let representations = read.map_err(|error| {
        let reason = format!(
            "{error}; a list of DeepFace's representations is expected, in lists, dictionaries, texts and numbers alone: a pickle \
             can be a program, and none is run here"
        );
        MigrationError::File { path: path.to_owned(), reason }
    })?;
    let beside = path.parent().unwrap_or(Path::new(""));
    let identities: Vec<&str> = representations.iter().map(|row| row.identity.as_str()).collect();
    let photos = Photos::new(photos.unwrap_or(beside).to_owned(), &identities);
    // A photo with several faces has a row for each.
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    for Representation { identity, embedding } in representations {
        if seen.insert(identity.clone()) {
            let content = match (photos.file(&identity), embedding) {
                (Some(path), _) => Ok(Content::PhotoFile(path)),
                (None, Some(numbers)) if !numbers.is_empty() => Ok(Content::Embedding(numbers)),
                (None, _) => Err(Refusal::new("no_file", format!("the photo is not in {}", photos.root.display()))),
            };
            let subject = photos.subject(&identity);
            items.push(item(gallery, subject, &identity, identity.clone(), content));
        }
    }
    Ok(Source::of(items))
}

fn item(gallery: &Name, subject: String, place: &str, identity: String, content: Result<Content, Refusal>) -> Item {
    let id = derived_id("deepface", gallery, &subject, place);
    let metadata = Metadata::default();
    Item { gallery: gallery.clone(), subject, id, identity, content, metadata, created_at: None }
}

/// A row of the database.
#[derive(FromRow)]
struct Row {
    id: i64,
    img_name: String,
    face: Vec<u8>,
    face_shape: Vec<i32>,
    embedding: Vec<f64>,
    created_at: Option<DateTime<Utc>>,
}

/// All faces of DeepFace's PostgreSQL: by their photos, if they lie in `photos`, else by the crops that it keeps.
pub async fn database(url: &Secret, photos: Option<&Path>, gallery: &Name) -> Result<Source, MigrationError> {
    let pool = connect(url).await?;
    let is_there = "select to_regclass('embeddings') is not null and exists (select from information_schema.columns \
         where table_name = 'embeddings' and column_name = 'img_name')";
    if !sqlx::query_scalar::<_, bool>(is_there).fetch_one(&pool).await.map_err(MigrationError::Database)? {
        return Err(MigrationError::OtherDatabase { product: "DeepFace", table: "embeddings" });
    }
    let total: i64 = sqlx::query_scalar("select count(*) from embeddings")
        .fetch_one(&pool)
        .await
        .map_err(MigrationError::Database)?;
    let names: Vec<String> = sqlx::query_scalar("select img_name from embeddings order by id limit $1")
        .bind(LOOKED_AT as i64)
        .fetch_all(&pool)
        .await
        .map_err(MigrationError::Database)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows = Rows {
        pool,
        after: 0,
        // Without a folder, how deep the paths lie does not matter.
        photos: photos.map(|root| Photos::new(root.to_owned(), &names)),
        gallery: gallery.clone(),
    };
    let pages = stream::try_unfold(rows, |mut rows| async move {
        let page = rows.next().await?;
        Ok((!page.is_empty()).then_some((page, rows)))
    });
    Ok(Source { pages: pages.boxed(), total: Some(total.unsigned_abs()) })
}

/// How far the rows were read.
struct Rows {
    pool: PgPool,
    after: i64,
    photos: Option<Photos>,
    gallery: Name,
}

impl Rows {
    /// The next faces; none after the last.
    async fn next(&mut self) -> Result<Vec<Item>, MigrationError> {
        let rows: Vec<Row> = sqlx::query_as(
            "select id::bigint, img_name, face, face_shape, embedding, created_at from embeddings where id > $1 order by id limit $2",
        )
        .bind(self.after)
        .bind(PAGE)
        .fetch_all(&self.pool)
        .await
        .map_err(MigrationError::Database)?;
        self.after = rows.last().map_or(self.after, |row| row.id);
        Ok(rows.into_iter().map(|row| self.item(row)).collect())
    }

    fn item(&self, row: Row) -> Item {
        let Row { id, img_name, face, face_shape, embedding, created_at } = row;
        let photo = self.photos.as_ref().and_then(|photos| photos.file(&img_name));
        let content = match photo {
            Some(path) => Ok(Content::PhotoFile(path)),
            None if face.is_empty() => {
                Ok(Content::Embedding(embedding.into_iter().map(|value| value as f32).collect()))
            }
            None => crop(&face, &face_shape).map(Content::Crop),
        };
        let subject = match &self.photos {
            Some(photos) => photos.subject(&img_name),
            None => Photos { root: PathBuf::new(), skipped: 0 }.subject(&img_name),
        };
        Item { created_at, ..item(&self.gallery, subject, &format!("row {id}"), img_name, content) }
    }
}

/// The crop that DeepFace gave its model: 32-bit floats, rows from the top, blue, green, red.
fn crop(face: &[u8], shape: &[i32]) -> Result<Bytes, Refusal> {
    let refuse = |detail: &str| Refusal::new("invalid_image", format!("the crop {detail}"));
    let [.., height, width, 3] = shape else { return Err(refuse("is no colour image")) };
    let (floats, rest) = face.as_chunks::<4>();
    let values: Vec<f32> = floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let (Ok(width), Ok(height)) = (u32::try_from(*width), u32::try_from(*height)) else {
        return Err(refuse("has no size"));
    };
    let count = u64::from(width) * u64::from(height) * 3;
    if !rest.is_empty() || values.len() as u64 != count || count == 0 {
        return Err(refuse("has another size than its row says"));
    }
    let (least, most) =
        values.iter().fold((f32::MAX, f32::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    // How DeepFace scales pixels for its models: from 0 to 1, as they are, from -1 to 1, or by what cannot be undone.
    let (times, plus) = match (least, most) {
        (0.0.., ..=1.001) => (255.0, 0.0),
        (0.0.., ..=255.5) => (1.0, 0.0),
        (-1.01.., ..=1.01) => (127.5, 127.5),
        _ => {
            return Err(Refusal::new(
                "normalised_crop",
                "the crop was scaled for its model, and cannot be scaled back",
            ));
        }
    };
    let pixel = |[blue, green, red]: &[f32; 3]| [*red, *green, *blue].map(|value| (value * times + plus).round() as u8);
    let pixels: Vec<u8> = values.as_chunks::<3>().0.iter().flat_map(pixel).collect();
    let image =
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| refuse("has another size than its row says"))?;
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Bmp).map_err(|error| refuse(&error.to_string()))?;
    Ok(file.into_inner().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pickle_is_read_and_never_run() {
        // Python: pickle.dumps([{"identity": "db/Ada/1.jpg", "hash": "x", "embedding": [0.5, -1.0], "target_x": 3},
        //     {"identity": "db/Bob/1.jpg", "hash": "y", "embedding": None, "target_x": 0}])
        let plain: &[u8] = b"\x80\x04\x95\x7f\x00\x00\x00\x00\x00\x00\x00]\x94(}\x94(\x8c\x08identity\x94\x8c\x0cdb/Ada/1.jpg\x94\x8c\x04hash\x94\x8c\x01x\x94\x8c\tembedding\x94]\x94(G?\xe0\x00\x00\x00\x00\x00\x00G\xbf\xf0\x00\x00\x00\x00\x00\x00e\x8c\x08target_x\x94K\x03u}\x94(h\x02\x8c\x0cdb/Bob/1.jpg\x94h\x04\x8c\x01y\x94h\x06Nh\x08K\x00ue.";
        let read: Vec<Representation> = serde_pickle::from_slice(plain, DeOptions::new()).unwrap();
        let row = |identity: &str, embedding| Representation { identity: identity.to_owned(), embedding };
        assert_eq!(read, [row("db/Ada/1.jpg", Some(vec![0.5, -1.0])), row("db/Bob/1.jpg", None)]);
        // os.system("true"), as pickle would run it.
        let program: &[u8] = b"cos\nsystem\n(S'true'\ntR.";
        assert!(serde_pickle::from_slice::<Vec<Representation>>(program, DeOptions::new()).is_err());
        let in_a_row: &[u8] =
            b"\x80\x02]q\x00}q\x01(X\x08\x00\x00\x00identityq\x02cos\nsystem\nq\x03(X\x04\x00\x00\x00trueq\x04tRua.";
        assert!(serde_pickle::from_slice::<Vec<Representation>>(in_a_row, DeOptions::new()).is_err());
    }

    #[test]
    fn photos_are_found_where_most_of_them_are() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("Ada")).unwrap();
        for file in ["Ada/1.jpg", "Ada/2.jpg", "Bob.jpg"] {
            std::fs::write(folder.path().join(file), b"").unwrap();
        }
        let identities = ["/srv/db/Ada/1.jpg", "/srv/db/Ada/2.jpg", "/srv/db/Bob.jpg", "/srv/db/../Bob.jpg"];
        let photos = Photos::new(folder.path().to_owned(), &identities);
        assert_eq!(photos.skipped, 2);
        assert_eq!(photos.file(identities[0]), Some(folder.path().join("Ada").join("1.jpg")));
        assert_eq!(photos.file(identities[3]), None);
        assert_eq!([identities[0], identities[2]].map(|identity| photos.subject(identity)), ["Ada", "Bob"]);
        assert_eq!(photos.subject("Ada Lovelace"), "Ada Lovelace");
        assert_eq!(photos.subject(r"C:\db\Ada\1.jpg"), "Ada");
    }

    #[test]
    fn a_crop_is_scaled_back_to_pixels() {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let first = |values: &[f32]| {
            let file = crop(&bytes(values), &[1, 1, 2, 3])?;
            Ok::<_, Refusal>(image::load_from_memory(&file).unwrap().to_rgb8().get_pixel(0, 0).0)
        };
        assert_eq!(first(&[0.0, 0.2, 1.0, 0.0, 0.0, 0.0]), Ok([255, 51, 0]));
        assert_eq!(first(&[0.0, 51.0, 255.0, 0.0, 0.0, 0.0]), Ok([255, 51, 0]));
        assert_eq!(first(&[-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]), Ok([255, 128, 0]));
        assert_eq!(first(&[-2.0, 0.0, 1.0, 0.0, 0.0, 0.0]).unwrap_err().code, "normalised_crop");
        assert_eq!(crop(&bytes(&[0.0; 3]), &[2, 2, 3]).unwrap_err().code, "invalid_image");
        assert_eq!(crop(&bytes(&[0.0; 4]), &[2, 2]).unwrap_err().code, "invalid_image");
    }
}
