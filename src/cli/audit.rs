use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::export::{create, is_standard};
use super::keys::parse_time;
use super::{CliError, print_json, reach_database, say};
use crate::audit::{self, Head, Record, Verdict, Walk};
use crate::config::{AuditConfig, ConfigArgs};
use crate::db::Database;
use crate::gallery::Galleries;
use crate::registry::Registry;
use crate::service::answers::{AuditEntry, Page};
use crate::service::requests::{AuditRequest, PageLimit};
use crate::service::{self, ServiceError};
use crate::signing::{PrivateKey, PublicKey};
use crate::types::{Caller, Name};

/// Read the record of what was asked and changed, and check that nobody changed it
///
/// All of it works on the database itself, whether servers run on it or not.
///
/// Example: faceid audit verify
#[derive(clap::Args)]
pub struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List entries, latest first
    List(List),
    /// Write entries as lines of JSON, oldest first, which can be verified elsewhere
    Export(Export),
    /// Print where the chain ends, as a line of JSON to be kept elsewhere
    Head(PrintHead),
    /// Walk the chain, of the database or of an export, and say what is not as it was sealed
    Verify(Verify),
}

/// Which entries.
#[derive(clap::Args)]
struct FilterArgs {
    /// Only of this actor: the name or the id of a key, or command, server and the like
    #[arg(long, value_parser = super::parse_name, value_name = "NAME")]
    actor: Option<Name>,
    /// Only of this action, such as identify or subject.erase; subject for all that begin with subject.
    #[arg(long, value_parser = super::parse_name, value_name = "ACTION")]
    action: Option<Name>,
    /// Only what concerns this gallery: id or, while it is there, name
    #[arg(long, value_parser = super::parse_name, value_name = "GALLERY")]
    gallery: Option<Name>,
    /// Only what concerns the subject of this id
    #[arg(long, value_name = "ID")]
    subject: Option<Uuid>,
    /// Only of this model: id, sha256 or name
    #[arg(long)]
    model: Option<String>,
    /// Not before this time, such as 2030-01-31T12:00:00Z
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    from: Option<DateTime<Utc>>,
    /// Before this time
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    to: Option<DateTime<Utc>>,
}

#[derive(clap::Args)]
struct List {
    /// Entries at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200), value_name = "N")]
    limit: u32,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(clap::Args)]
struct Export {
    /// File to write, or - for standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(clap::Args)]
struct PrintHead {
    /// Sign it by this private key: Ed25519, as `openssl genpkey -algorithm ed25519` writes it
    #[arg(long, value_name = "PEM")]
    sign: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(clap::Args)]
struct Verify {
    /// An export, or - for standard input [default: the database]
    file: Option<PathBuf>,
    /// Hold the chain against this head, as `faceid audit head` printed it; may be said again
    #[arg(long, value_name = "FILE")]
    head: Vec<PathBuf>,
    /// Check that this key signed the heads, as `openssl pkey -pubout` writes it
    #[arg(long, requires = "head", value_name = "PEM")]
    public_key: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A head as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptHead {
    #[serde(flatten)]
    head: Head,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    signature: Option<String>,
}

impl Audit {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        match self.command {
            Command::List(list) => list.run().await,
            Command::Export(export) => export.run().await,
            Command::Head(head) => head.run().await,
            Command::Verify(verify) => verify.run().await,
        }
    }
}

impl FilterArgs {
    fn request(self, limit: u32) -> Result<AuditRequest, CliError> {
        let Self { actor, action, gallery, subject, model, from, to } = self;
        let limit = PageLimit::try_from(limit)?;
        Ok(AuditRequest { actor, action, gallery, subject, model, from, to, limit, cursor: None })
    }
}

/// The record of a database, for a command.
fn of_command(database: &Database) -> (audit::Audit, service::Audit) {
    let audit = audit::Audit::new(database.pools(), true);
    let config = AuditConfig { answers: true, retention: None, signing_key: None };
    let (galleries, registry) = (Galleries::new(database.pools()), Registry::new(database.pools()));
    let service = service::Audit::new(&audit, &galleries, &registry, &config).for_caller(Caller::command());
    (audit, service)
}

impl List {
    async fn run(self) -> Result<ExitCode, CliError> {
        let request = self.filter.request(self.limit)?;
        let page = request.page()?;
        let database = reach_database(self.config).await?;
        let listed = of_command(&database).1.list(&request, page).await;
        database.close().await;
        let listed = listed?;
        if self.json {
            print_json(&listed)?;
        } else {
            show(&listed);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(page: &Page<AuditEntry>) {
    for entry in &page.items {
        let (at, outcome) = (entry.at.format("%F %T"), entry.outcome.as_deref().unwrap_or("-"));
        let position = entry.position.map_or("-".to_owned(), |position| position.to_string());
        let model = entry.model.as_deref().unwrap_or("-");
        let AuditEntry { actor, action, details, .. } = entry;
        say(format_args!("{position:>6}  {at}  {actor:<10} {action:<18} {outcome:<10} {model}  {details}"));
    }
}

impl Export {
    async fn run(self) -> Result<ExitCode, CliError> {
        let request = self.filter.request(1)?;
        let database = reach_database(self.config).await?;
        let exported = export(&database, &request, &self.file).await;
        database.close().await;
        let entries = exported?;
        if !is_standard(&self.file) {
            say(format_args!("{entries} entries"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn export(database: &Database, request: &AuditRequest, file: &Path) -> Result<u64, CliError> {
    let (audit, service) = of_command(database);
    let filter = service.filter(request).await?;
    audit.seal_waiting().await.map_err(ServiceError::from)?;
    let mut out: Box<dyn Write + Send> = match is_standard(file) {
        true => Box::new(std::io::stdout()),
        false => Box::new(create(file).map_err(CliError::io(format!("cannot write {}", file.display())))?),
    };
    let mut out = BufWriter::new(&mut out);
    let failed = || CliError::io(format!("cannot write {}", file.display()));
    let (mut after, mut written) = (0, 0);
    loop {
        let (entries, last) = audit.read_on(&filter, after).await.map_err(ServiceError::from)?;
        if last == after {
            break;
        }
        after = last;
        for entry in entries {
            let line = serde_json::to_string(&entry).map_err(|error| CliError::Render(error.to_string()))?;
            writeln!(out, "{line}").map_err(failed())?;
            written += 1;
        }
    }
    out.flush().map_err(failed())?;
    Ok(written)
}

impl PrintHead {
    async fn run(self) -> Result<ExitCode, CliError> {
        let key = self.sign.as_deref().map(|path| PrivateKey::read(&read(path)?).map_err(usage(path))).transpose()?;
        let database = reach_database(self.config).await?;
        let audit = of_command(&database).0;
        let head = match audit.seal_waiting().await {
            Ok(()) => audit.head().await,
            Err(error) => Err(error),
        };
        database.close().await;
        let head = head.map_err(ServiceError::from)?;
        let kept = KeptHead { signature: key.map(|key| key.sign(&head.message())), head };
        let line = serde_json::to_string(&kept).map_err(|error| CliError::Render(error.to_string()))?;
        say(format_args!("{line}"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Verify {
    async fn run(self) -> Result<ExitCode, CliError> {
        let key =
            self.public_key.as_deref().map(|path| PublicKey::read(&read(path)?).map_err(usage(path))).transpose()?;
        let heads: Vec<Head> = self.head.iter().map(|path| read_head(path, key.as_ref())).collect::<Result<_, _>>()?;
        let verdict = match &self.file {
            Some(file) => verify_file(file, heads)?,
            None => {
                let database = reach_database(self.config).await?;
                let verdict = of_command(&database).0.verify(heads).await;
                database.close().await;
                verdict.map_err(ServiceError::from)?
            }
        };
        if self.json {
            print_json(&verdict)?;
        } else {
            tell(&verdict);
        }
        Ok(if verdict.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn tell(verdict: &Verdict) {
    for fault in &verdict.faults {
        say(format_args!("position {}: {}", fault.position, fault.what));
    }
    let range = match (verdict.first, verdict.last) {
        (Some(first), Some(last)) => format!(", positions {first} to {last}"),
        _ => String::new(),
    };
    let whole = if verdict.faults.is_empty() { "as it was sealed" } else { "NOT as it was sealed" };
    let unsealed = match verdict.unsealed {
        Some(count @ 1..) => format!("; {count} more are not sealed yet"),
        _ => String::new(),
    };
    say(format_args!("{} entries{range}: {whole}{unsealed}", verdict.entries));
}

/// Line by line, so that an export may be of any length.
fn verify_file(file: &Path, heads: Vec<Head>) -> Result<Verdict, CliError> {
    let unreadable = || CliError::io(format!("cannot read {}", file.display()));
    let lines: Box<dyn BufRead> = match is_standard(file) {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file).map_err(unreadable())?)),
    };
    let mut walk = Walk::new(heads);
    for (at, line) in lines.lines().enumerate() {
        let record: Record = serde_json::from_str(&line.map_err(unreadable())?)
            .map_err(|error| CliError::Usage(format!("{}, line {}: {error}", file.display(), at + 1)))?;
        walk.step(&record);
    }
    Ok(walk.end())
}

fn read_head(path: &Path, key: Option<&PublicKey>) -> Result<Head, CliError> {
    let kept: KeptHead = serde_json::from_str(&read(path)?).map_err(usage(path))?;
    match (key, &kept.signature) {
        (Some(key), Some(signature)) => key.check(&kept.head.message(), signature).map_err(usage(path))?,
        (Some(_), None) => return Err(CliError::Usage(format!("{}: this head is not signed", path.display()))),
        (None, Some(_)) => eprintln!("faceid: {}: its signature is not checked without --public-key", path.display()),
        (None, None) => {}
    }
    Ok(kept.head)
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(CliError::io(format!("cannot read {}", path.display())))
}

fn usage<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> CliError {
    move |error| CliError::Usage(format!("{}: {error}", path.display()))
}
