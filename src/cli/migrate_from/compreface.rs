use std::process::ExitCode;
use std::time::Duration;

use super::session::{Common, Session};
use crate::access::Keys;
use crate::cli::{CliError, parse_name, progress_bar};
use crate::config::Secret;
use crate::migration::{CompreFace, Event, MigrationError, compare, take_keys};
use crate::types::{Caller, Name};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(200);

/// Take over the services of CompreFace from its PostgreSQL: each becomes a gallery, image ids and API keys stay as they are
///
/// Photos are read from the database, where CompreFace keeps them unless it was told not to. Nothing is written there.
///
/// Example: faceid migrate-from compreface --from postgres://postgres:postgres@localhost/frs --report refused.jsonl
#[derive(clap::Args)]
pub struct FromCompreface {
    /// The database of CompreFace; as a flag its password shows in the list of processes, as a variable it does not
    #[arg(long, env = "FACEID_MIGRATE_FROM", hide_env_values = true, value_name = "URL")]
    from: Secret,
    /// A service to take over, by its name or as "APPLICATION / NAME"; may be said again [default: all]
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Gallery for the faces of the only recognition service [default: one that is called as the service]
    #[arg(long, value_parser = parse_name)]
    gallery: Option<Name>,
    /// Leave out the API keys of the services
    #[arg(long)]
    no_keys: bool,
    /// Examples of which the answers of both products are compared; 0: none
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=100_000), value_name = "N")]
    compare: u32,
    #[command(flatten)]
    common: Common,
}

impl FromCompreface {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let compreface = CompreFace::open(&self.from, &self.service, self.gallery).await?;
        let mut session = Session::open(self.common, None).await?;
        let done = take_over(&mut session, &compreface, !self.no_keys, self.compare).await;
        session.close(done).await
    }
}

/// Faces first, so that whoever shows a key finds them.
async fn take_over(
    session: &mut Session,
    compreface: &CompreFace,
    with_keys: bool,
    probes: u32,
) -> Result<(), CliError> {
    session.run(compreface.source().await?).await?;
    let galleries = session.migration.galleries();
    if with_keys {
        let secret = session.config.access.key_secret.as_ref().map(Secret::expose);
        let keys = Keys::open(session.database.pools(), secret).await.map_err(MigrationError::from)?;
        session.migrated.keys = take_keys(&keys.by(&Caller::command()), galleries, compreface.services()).await?;
    }
    if probes > 0 {
        let report = &mut session.report;
        let model = session.migration.reader().model();
        let tell = |changed: &_| report.write(&Event::Changed(changed));
        let bar = progress_bar(None, "{spinner} comparing decisions  {elapsed}");
        bar.enable_steady_tick(TICK);
        let compared = compare(compreface, galleries, model, probes, tell).await;
        bar.finish_and_clear();
        session.migrated.comparison = Some(compared?);
    }
    Ok(())
}
