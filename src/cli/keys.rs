use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Subcommand;

use super::client::{Client, Patience, Trust};
use super::{CliError, configure, print_json, say};
use crate::config::ConfigArgs;
use crate::db::{Database, PageRequest};
use crate::limits::{Allowed, Limits, Rate};
use crate::service::Access;
use crate::service::answers::{CreatedKey, KeyEntry, Page};
use crate::service::requests::{KeepFor, ListRequest, Listed, NewKey, RotateKey};
use crate::types::{Caller, Name, Role};

/// Make keys for those who call servers, and take them back
///
/// Example: faceid keys create "gate 3" --role identify --gallery staff
#[derive(clap::Args)]
pub struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key; it is printed this once
    Create(Create),
    /// List keys
    List(List),
    /// Give a key another value, which is printed this once
    Rotate(Rotate),
    /// Take a key back for good
    Revoke(Revoke),
}

/// Where the keys are.
#[derive(clap::Args)]
struct PlaceArgs {
    /// Let a running server do it, with the admin key; without it, it is done in the database, whether servers run on it or not
    #[arg(long, env = "FACEID_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(clap::Args)]
struct Create {
    /// What it is called in lists and records
    #[arg(value_parser = super::parse_name)]
    name: Name,
    /// What it is for: identify, read, enrol, admin or owner
    #[arg(long)]
    role: Role,
    /// A gallery that it is for, by name or id; may be said again [default: all]
    #[arg(long, value_parser = super::parse_name, value_name = "GALLERY")]
    gallery: Vec<Name>,
    /// From when on it is of no use, such as 2030-01-31T12:00:00Z [default: never]
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    expires_at: Option<DateTime<Utc>>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

/// What the key may have, where that differs from the settings of servers, which have the same names.
#[derive(clap::Args)]
struct LimitArgs {
    /// Requests a second; 0: any number [default: as servers say]
    #[arg(id = "key_requests_per_second", long = "limit-requests-per-second", value_name = "RATE")]
    requests_per_second: Option<f64>,
    /// Requests at once after a pause [default: those of ten seconds]
    #[arg(id = "key_request_burst", long = "limit-request-burst", value_name = "N")]
    request_burst: Option<u32>,
    /// Megapixels of photos a second; 0: any number [default: as servers say]
    #[arg(id = "key_megapixels_per_second", long = "limit-megapixels-per-second", value_name = "RATE")]
    megapixels_per_second: Option<f64>,
    /// Megapixels at once after a pause [default: those of ten seconds]
    #[arg(id = "key_megapixel_burst", long = "limit-megapixel-burst", value_name = "N")]
    megapixel_burst: Option<u32>,
    /// Requests in work at a time; 0: any number [default: as servers say]
    #[arg(id = "key_concurrent_requests", long = "limit-concurrent-requests", value_name = "N")]
    concurrent_requests: Option<u32>,
}

impl From<LimitArgs> for Limits {
    fn from(said: LimitArgs) -> Self {
        Self {
            requests_per_second: said.requests_per_second,
            request_burst: said.request_burst,
            megapixels_per_second: said.megapixels_per_second,
            megapixel_burst: said.megapixel_burst,
            concurrent_requests: said.concurrent_requests,
        }
    }
}

#[derive(clap::Args)]
struct List {
    /// Show those that were revoked as well
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(clap::Args)]
struct Rotate {
    /// Its id or name
    key: String,
    /// Seconds for which the former key works as well, up to 7 days
    #[arg(long, default_value = "0", value_parser = parse_keep_for, value_name = "SECONDS")]
    keep_for: KeepFor,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(clap::Args)]
struct Revoke {
    /// Its id or name
    key: String,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(super) fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    time.map_err(|_| "a time such as 2030-01-31T12:00:00Z is expected".to_owned())
}

fn parse_keep_for(text: &str) -> Result<KeepFor, String> {
    let seconds: u64 = text.parse().map_err(|_| "a number of seconds is expected".to_owned())?;
    KeepFor::try_from(seconds).map_err(|error| error.to_string())
}

impl Keys {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Create(create) => create.run().await,
            Command::List(list) => list.run().await,
            Command::Rotate(rotation) => rotation.run().await,
            Command::Revoke(revocation) => revocation.run().await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl Create {
    async fn run(self) -> Result<(), CliError> {
        let galleries = match self.gallery {
            none if none.is_empty() => None,
            some => Some(Listed::try_from(some).map_err(|error| CliError::Usage(error.to_string()))?),
        };
        let limits = Limits::from(self.limits);
        let limits = (!limits.says_nothing()).then_some(limits);
        let new = NewKey { name: self.name, role: self.role, galleries, expires_at: self.expires_at, limits };
        let json = self.place.json;
        let place = self.place.open().await?;
        let created = place.create(new).await;
        place.close().await;
        show_once(&created?, json)
    }
}

impl List {
    async fn run(self) -> Result<(), CliError> {
        let json = self.place.json;
        let place = self.place.open().await?;
        let keys = place.all().await;
        place.close().await;
        let mut keys = keys?;
        keys.retain(|key| self.all || key.revoked_at.is_none());
        if json {
            return print_json(&keys);
        }
        keys.iter().for_each(show);
        Ok(())
    }
}

impl Rotate {
    async fn run(self) -> Result<(), CliError> {
        let json = self.place.json;
        let place = self.place.open().await?;
        let rotated = place.rotate(&self.key, RotateKey { keep_for: self.keep_for }).await;
        place.close().await;
        show_once(&rotated?, json)
    }
}

impl Revoke {
    async fn run(self) -> Result<(), CliError> {
        let json = self.place.json;
        let place = self.place.open().await?;
        let revoked = place.revoke(&self.key).await;
        place.close().await;
        let revoked = revoked?;
        if json {
            return print_json(&revoked);
        }
        say(format_args!("revoked {}", revoked.name));
        Ok(())
    }
}

/// The key alone goes to standard output, so that a script can take it.
fn show_once(key: &CreatedKey, json: bool) -> Result<(), CliError> {
    if json {
        return print_json(key);
    }
    say(format_args!("{}", key.key.expose()));
    let KeyEntry { name, role, .. } = &key.entry;
    eprintln!("this is the key {name:?}, for role {role}, {}; it is not shown again", galleries(&key.entry));
    if let Some(until) = key.entry.former_until {
        eprintln!("the former key works until {}", until.format("%F %T UTC"));
    }
    Ok(())
}

fn galleries(key: &KeyEntry) -> String {
    match &key.galleries {
        None => "all galleries".to_owned(),
        Some(none) if none.is_empty() => "no gallery any more".to_owned(),
        Some(some) => some.iter().map(|gallery| gallery.name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn show(key: &KeyEntry) {
    let used = match key.last_used_at {
        Some(at) => format!("used {} times, last {}", key.uses, at.format("%F %T")),
        None => "not used yet".to_owned(),
    };
    let (state, role) = (key.state.name(), key.role.as_str());
    let limits = limits(key);
    say(format_args!("{state:<8} {role:<8} {}...  {}  ({}; {used}{limits})", key.prefix, key.name, galleries(key)));
}

/// The limits of the key itself.
fn limits(key: &KeyEntry) -> String {
    let rate = |said: Option<f64>, allowed: Option<Rate>, what: &str| {
        said.map(|_| match allowed {
            Some(Rate { per_second, burst }) => format!("; {per_second} {what} a second, {burst} at once"),
            None => format!("; any number of {what}"),
        })
    };
    let Allowed { requests, megapixels, concurrent } = key.limits.allowed();
    let said = key.limits;
    let concurrent = said.concurrent_requests.map(|_| match concurrent {
        Some(most) => format!("; {most} requests at a time"),
        None => "; any number of requests at a time".to_owned(),
    });
    let requests = rate(said.requests_per_second, requests, "requests");
    let megapixels = rate(said.megapixels_per_second, megapixels, "megapixels");
    [requests, megapixels, concurrent].into_iter().flatten().collect()
}

/// A server, or the database itself.
enum Place {
    Server(Client),
    Database(Box<Database>, Access),
}

impl PlaceArgs {
    async fn open(self) -> Result<Place, CliError> {
        if let Some(server) = self.server {
            return Client::new(&server, self.patience, &self.trust, self.config.said()?.admin_key).map(Place::Server);
        }
        let mut args = self.config;
        // Whoever uses the command sees what it says; the log is of servers.
        args.settings.log.get_or_insert_with(|| "warn,sqlx=error".to_owned());
        let config = configure(args)?;
        let database = crate::app::reach_database(&config.database).await?;
        match Access::open(database.pools(), &config.access).await {
            Ok(access) => Ok(Place::Database(Box::new(database), access)),
            Err(error) => {
                database.close().await;
                Err(error.into())
            }
        }
    }
}

impl Place {
    async fn create(&self, new: NewKey) -> Result<CreatedKey, CliError> {
        match self {
            Self::Server(client) => client.post_once(&["admin", "keys"], &new).await,
            Self::Database(_, access) => Ok(access.create_key(&Caller::command(), new).await?),
        }
    }

    async fn all(&self) -> Result<Vec<KeyEntry>, CliError> {
        let (mut keys, mut list) = (Vec::new(), ListRequest::first(PageRequest::MAX_LIMIT)?);
        loop {
            let page: Page<KeyEntry> = match self {
                Self::Server(client) => client.get(&["admin", "keys"], &list).await?,
                Self::Database(_, access) => access.list_keys(&Caller::command(), list.page("keys")?).await?,
            };
            keys.extend(page.items);
            match page.next_cursor {
                Some(next) => list.cursor = Some(next),
                None => return Ok(keys),
            }
        }
    }

    async fn rotate(&self, key: &str, how: RotateKey) -> Result<CreatedKey, CliError> {
        match self {
            Self::Server(client) => client.post_once(&["admin", "keys", key, "rotate"], &how).await,
            Self::Database(_, access) => Ok(access.rotate_key(&Caller::command(), key, how).await?),
        }
    }

    async fn revoke(&self, key: &str) -> Result<KeyEntry, CliError> {
        match self {
            Self::Server(client) => client.delete(&["admin", "keys", key]).await,
            Self::Database(_, access) => Ok(access.revoke_key(&Caller::command(), key).await?),
        }
    }

    async fn close(self) {
        if let Self::Database(database, access) = self {
            drop(access);
            database.close().await;
        }
    }
}
