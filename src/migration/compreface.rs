//! CompreFace's PostgreSQL, of version 1.0 to 1.2 (java/admin/src/main/resources/db/changelog of its repository): services are rows of
//! `model` below those of `app`; subjects carry the key of their service; an example is a row of `embedding`, whose id its API
//! calls `image_id`, with the photo in `img` unless CompreFace was told to keep none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::str::FromStr;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use super::MigrationError;
use super::item::{Content, Item, Refusal, Source, derived_id};
use crate::config::Secret;
use crate::gallery::Metadata;
use crate::types::{FaceId, Name};

/// Examples that are read at once, without their photos.
const PAGE: i64 = 500;

/// Connections: one for the pages, the others for photos.
const CONNECTIONS: u32 = 6;

/// What a service of CompreFace does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    Recognition,
    Detection,
    Verification,
}

/// A service of CompreFace, and the gallery that takes its place.
pub struct Service {
    pub name: String,
    pub app: String,
    pub kind: ServiceKind,
    pub gallery: Name,
    pub(super) api_key: Secret,
}

impl Service {
    /// With the application that it belongs to.
    pub fn full_name(&self) -> String {
        format!("{} / {}", self.app, self.name)
    }
}

/// A database of CompreFace, which is only read.
pub struct CompreFace {
    pub(super) pool: PgPool,
    services: Vec<Service>,
}

/// The photo of an example, in the database.
pub struct StoredImage {
    pool: PgPool,
    id: Uuid,
}

impl StoredImage {
    pub(super) async fn read(&self) -> Result<Bytes, MigrationError> {
        let content: Vec<u8> = sqlx::query_scalar("select content from img where id = $1")
            .bind(self.id)
            .fetch_one(&self.pool)
            .await
            .map_err(MigrationError::Database)?;
        Ok(content.into())
    }
}

impl CompreFace {
    /// Reads which services there are, and keeps those that are named, or all. `gallery` is for the faces of the only
    /// recognition service among them, in place of one of its name.
    pub async fn open(url: &Secret, named: &[String], gallery: Option<Name>) -> Result<Self, MigrationError> {
        let pool = connect(url).await?;
        let table = "select to_regclass($1) is not null";
        for name in ["app", "model", "subject", "embedding", "img"] {
            let exists: bool =
                sqlx::query_scalar(table).bind(name).fetch_one(&pool).await.map_err(MigrationError::Database)?;
            if !exists {
                return Err(MigrationError::OtherDatabase { product: "CompreFace", table: name });
            }
        }
        let rows: Vec<(String, String, String, String)> = sqlx::query_as(
            "select m.name, a.name, m.api_key, m.type from model m join app a on a.id = m.app_id order by a.id, m.id",
        )
        .fetch_all(&pool)
        .await
        .map_err(MigrationError::Database)?;
        let services = choose(rows, named, gallery)?;
        Ok(Self { pool, services })
    }

    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Those that have faces.
    pub(super) fn recognition(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| service.kind == ServiceKind::Recognition)
    }

    /// All examples of the services, and the subjects that have none.
    pub async fn source(&self) -> Result<Source, MigrationError> {
        let keys: Vec<&str> = self.recognition().map(|service| service.api_key.expose()).collect();
        let total: i64 = sqlx::query_scalar(
            "select count(*) from embedding e join subject s on s.id = e.subject_id where s.api_key = any($1)",
        )
        .bind(keys)
        .fetch_one(&self.pool)
        .await
        .map_err(MigrationError::Database)?;
        let left = self.recognition().map(|service| (service.api_key.clone(), service.gallery.clone()));
        let pages = Pages { pool: self.pool.clone(), left: left.collect(), after: Uuid::nil() };
        let pages = stream::try_unfold(pages, |mut pages| async move {
            let page = pages.next().await?;
            Ok(page.map(|page| (page, pages)))
        });
        Ok(Source { pages: pages.boxed(), total: Some(total.unsigned_abs()) })
    }
}

/// A pool on a database of somebody else, where nothing can be written.
pub(super) async fn connect(url: &Secret) -> Result<PgPool, MigrationError> {
    let options = PgConnectOptions::from_str(url.expose()).map_err(|error| MigrationError::Url(error.to_string()))?;
    let options = options.application_name("faceid migrate-from");
    let unreachable = |error: sqlx::Error| MigrationError::Unreachable(error.to_string());
    // A pool would try for half a minute, and not say what the matter is.
    PgConnection::connect_with(&options).await.map_err(unreachable)?.close().await.map_err(unreachable)?;
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).after_connect(|connection, _| {
        Box::pin(async move {
            let only_reading = "set session characteristics as transaction read only";
            sqlx::query(only_reading).execute(connection).await.map(drop)
        })
    });
    pool.connect_with(options).await.map_err(unreachable)
}

/// Which services are taken, each with its gallery: of its own name, or with that of its application before it where two have
/// one name.
fn choose(
    rows: Vec<(String, String, String, String)>,
    named: &[String],
    gallery: Option<Name>,
) -> Result<Vec<Service>, MigrationError> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut chosen = Vec::new();
    for (name, app, api_key, kind) in rows {
        let kind = match kind.as_str() {
            "R" => ServiceKind::Recognition,
            "D" => ServiceKind::Detection,
            "V" => ServiceKind::Verification,
            _ => continue,
        };
        let full = format!("{app} / {name}");
        let is_named = |said: &String| *said == name || *said == full;
        if named.is_empty() || named.iter().any(is_named) {
            chosen.push((name.clone(), app, api_key, kind));
        }
        known.insert(full);
    }
    let all = || known.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let is_there =
        |said: &&String| !chosen.iter().any(|(name, app, ..)| *said == name || **said == format!("{app} / {name}"));
    if let Some(missing) = named.iter().find(is_there) {
        return Err(MigrationError::Choice(format!("there is no service {missing:?}; there are {}", all())));
    }
    let recognition = chosen.iter().filter(|(.., kind)| *kind == ServiceKind::Recognition).count();
    if gallery.is_some() && recognition != 1 {
        return Err(MigrationError::Choice(format!(
            "--gallery is for one recognition service, and there are {recognition}; choose one by --service ({})",
            all()
        )));
    }
    let mut of_name: BTreeMap<String, usize> = BTreeMap::new();
    for (name, ..) in &chosen {
        *of_name.entry(name.trim().to_owned()).or_default() += 1;
    }
    let service = |(name, app, api_key, kind): (String, String, String, ServiceKind)| {
        let own = name.trim();
        let own = if of_name[own] > 1 { format!("{} {own}", app.trim()) } else { own.to_owned() };
        let own = Name::try_from(own).map_err(|error| {
            MigrationError::Choice(format!("the service {app:?} / {name:?} needs --gallery: {error}"))
        });
        let gallery = match &gallery {
            Some(gallery) if kind == ServiceKind::Recognition => gallery.clone(),
            _ => own?,
        };
        Ok(Service { name, app, kind, gallery, api_key: Secret::from(api_key) })
    };
    chosen.into_iter().map(service).collect()
}

/// How far the examples were read: those of the first service are in work.
struct Pages {
    pool: PgPool,
    left: VecDeque<(Secret, Name)>,
    after: Uuid,
}

impl Pages {
    /// The next examples; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Item>>, MigrationError> {
        let Some((key, gallery)) = self.left.front() else { return Ok(None) };
        let examples: Vec<(Uuid, String, Option<Uuid>)> = sqlx::query_as(
            "select e.id, coalesce(s.subject_name, ''), e.img_id from embedding e join subject s on s.id = e.subject_id \
             where s.api_key = $1 and e.id > $2 order by e.id limit $3",
        )
        .bind(key.expose())
        .bind(self.after)
        .bind(PAGE)
        .fetch_all(&self.pool)
        .await
        .map_err(MigrationError::Database)?;
        let Some((last, ..)) = examples.last() else {
            let alone = self.subjects_alone().await?;
            self.left.pop_front();
            self.after = Uuid::nil();
            return Ok(Some(alone));
        };
        let last = *last;
        let item = |(id, subject, image): (Uuid, String, Option<Uuid>)| {
            let content = image.map(|id| Content::Stored(StoredImage { pool: self.pool.clone(), id }));
            let no_image = || Refusal::new("no_image", "CompreFace kept no photo of this example");
            Item {
                gallery: gallery.clone(),
                subject,
                id: FaceId(id),
                identity: id.to_string(),
                content: content.ok_or_else(no_image),
                metadata: Metadata::default(),
                created_at: None,
            }
        };
        let items = examples.into_iter().map(item).collect();
        self.after = last;
        Ok(Some(items))
    }

    /// The subjects of a service that have no example.
    async fn subjects_alone(&self) -> Result<Vec<Item>, MigrationError> {
        let Some((key, gallery)) = self.left.front() else { return Ok(Vec::new()) };
        let names: Vec<String> = sqlx::query_scalar(
            "select coalesce(s.subject_name, '') from subject s where s.api_key = $1 \
             and not exists (select from embedding e where e.subject_id = s.id) order by s.id",
        )
        .bind(key.expose())
        .fetch_all(&self.pool)
        .await
        .map_err(MigrationError::Database)?;
        let item = |subject: String| Item {
            id: derived_id("compreface", gallery, &subject, ""),
            gallery: gallery.clone(),
            identity: subject.clone(),
            subject,
            content: Ok(Content::SubjectAlone),
            metadata: Metadata::default(),
            created_at: None,
        };
        Ok(names.into_iter().map(item).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(all: &[(&str, &str, &str)]) -> Vec<(String, String, String, String)> {
        let row = |(name, app, kind): &(&str, &str, &str)| {
            ((*name).to_owned(), (*app).to_owned(), Uuid::now_v7().to_string(), (*kind).to_owned())
        };
        all.iter().map(row).collect()
    }

    fn galleries(rows: Vec<(String, String, String, String)>, named: &[&str], gallery: Option<&str>) -> Vec<String> {
        let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
        let gallery = gallery.map(|name| Name::try_from(name.to_owned()).unwrap());
        match choose(rows, &named, gallery) {
            Ok(services) => services.iter().map(|service| service.gallery.to_string()).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    #[test]
    fn a_service_becomes_a_gallery_of_its_name() {
        let all = [("doors", "site A", "R"), ("doors", "site B", "R"), (" lobby ", "site A", "D"), ("x", "y", "?")];
        assert_eq!(galleries(rows(&all), &[], None), ["site A doors", "site B doors", "lobby"]);
        assert_eq!(galleries(rows(&all), &["site B / doors"], None), ["doors"]);
        assert_eq!(galleries(rows(&all), &["site B / doors", " lobby "], Some("staff")), ["staff", "lobby"]);
        let error = &galleries(rows(&all), &["doors"], Some("staff"))[0];
        assert!(error.contains("there are 2; choose one by --service") && error.contains("site A / doors"), "{error}");
        let error = &galleries(rows(&all), &["gate"], None)[0];
        assert!(error.starts_with("there is no service \"gate\"") && error.contains("site B / doors"), "{error}");
    }
}
