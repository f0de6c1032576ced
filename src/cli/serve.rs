use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::CliError;
use crate::app::App;
use crate::config::{Config, ConfigArgs, HttpConfig};
use crate::http::{AppState, Port, Routes, Tls, leaving, parting, router, starting};
use crate::jobs::Lane;
use crate::service::StartProgress;

/// Start the server
///
/// Example: faceid serve --bind 127.0.0.1:18080 --data-dir ./data
#[derive(clap::Args)]
pub struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
    /// Show the configuration that flags, environment, file and defaults add up to, with secrets hidden, and exit
    #[arg(long)]
    print_config: bool,
}

impl Serve {
    pub async fn run(self) -> Result<ExitCode, CliError> {
        let settings = self.config.resolve()?;
        let config = settings.clone().into_config()?;
        if self.print_config {
            let text = toml::to_string_pretty(&settings).map_err(|error| CliError::Render(error.to_string()))?;
            super::say(format_args!("{}", text.trim_end()));
            return Ok(ExitCode::SUCCESS);
        }
        crate::telemetry::start(&config.log).map_err(CliError::Usage)?;
        config.warnings().iter().for_each(|warning| warn!("{warning}"));
        serve(config).await?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn serve(config: Config) -> Result<(), CliError> {
    let tls = match &config.http.tls {
        Some(tls) => Some(Tls::load(tls.clone()).await?),
        None => None,
    };
    // Before the slow parts start: a port that is taken shows at once, and so does that the server lives.
    let listener = TcpListener::bind(config.http.bind)
        .await
        .map_err(CliError::io(format!("cannot listen on {}", config.http.bind)))?;
    let address = listener.local_addr().map_err(CliError::io("cannot read the listening address"))?;
    let mut shutdown = Shutdown::new()?;
    let progress = StartProgress::default();
    let door = Door::open(Port { listener, tls }, starting(progress.clone(), &config.http).into(), &config.http);
    let start = App::start(&config, &progress);
    tokio::pin!(start);
    let mut app = tokio::select! {
        app = &mut start => app?,
        _ = shutdown.requested() => {
            door.stop.notify_one();
            // What has been started is best stopped in order, so the start is finished, unless that takes too long or the user
            // insists.
            tokio::select! {
                app = &mut start => return stop(app?, &mut shutdown).await,
                () = tokio::time::sleep(config.http.shutdown_timeout) => return Ok(()),
                _ = shutdown.requested() => return Ok(()),
            }
        }
    };
    app.work_on_jobs(&Lane::ALL);
    let state = AppState::new(app.services.clone(), &config.http);
    door.routes.replace(router(state.clone()));
    announce(address, &config.http, state.unscoped.access.is_open());
    answer(door, state, &config.http, &mut shutdown).await;
    stop(app, &mut shutdown).await
}

/// Stops the parts in order, unless the user insists; then the private Postgres is stopped by its guard.
async fn stop(app: App, shutdown: &mut Shutdown) -> Result<(), CliError> {
    tokio::select! {
        () = app.stop() => (),
        _ = shutdown.requested() => warn!("stopping at once"),
    }
    Ok(())
}

/// What answers at the port: a task of its own, so that nothing holds it up. It ends when this is dropped.
struct Door {
    routes: Routes,
    /// Once notified, the server takes no more connections and ends when the accepted requests are answered.
    stop: Arc<Notify>,
    server: JoinSet<()>,
}

impl Door {
    fn open(port: Port, routes: Routes, config: &HttpConfig) -> Self {
        let (stop, mut server) = (Arc::new(Notify::new()), JoinSet::new());
        let (shown, stopping, config) = (routes.clone(), Arc::clone(&stop), config.clone());
        server.spawn(async move { crate::http::serve(port, shown, &config, stopping.notified()).await });
        Self { routes, stop, server }
    }
}

/// Serves until asked to stop, then finishes what was accepted, within the time for it.
async fn answer(mut door: Door, state: AppState, config: &HttpConfig, shutdown: &mut Shutdown) {
    let deadline = async {
        if shutdown.requested().await == Request::ByOthers {
            leave(&door.routes, &state, config.shutdown_grace, shutdown).await;
        }
        info!("stopping: finishing the accepted requests; once more to stop at once");
        state.unscoped.upkeep.close();
        door.stop.notify_one();
        tokio::select! {
            () = tokio::time::sleep(config.shutdown_timeout) => warn!("some requests took too long and are dropped"),
            _ = shutdown.requested() => warn!("dropping the requests in work"),
        }
    };
    let ended = tokio::select! {
        ended = door.server.join_next() => ended,
        () = deadline => None,
    };
    // With it end all clones of the services that it holds.
    door.server.shutdown().await;
    if let Some(Err(error)) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Goes on serving while the word spreads that this server is about to stop, unless the user insists.
async fn leave(routes: &Routes, state: &AppState, grace: Duration, shutdown: &mut Shutdown) {
    if grace.is_zero() {
        return;
    }
    info!(seconds = grace.as_secs(), "about to stop: not ready any more, but still serving; once more to take no more");
    let leaving = leaving(router(state.clone()), &state.http);
    routes.replace(leaving.clone());
    let (first, second) = (grace / 2, grace - grace / 2);
    let parting = async {
        tokio::time::sleep(first).await;
        routes.replace(parting(leaving));
        tokio::time::sleep(second).await;
    };
    tokio::select! {
        () = parting => {}
        _ = shutdown.requested() => {}
    }
}

/// What a new user needs to see.
fn announce(address: SocketAddr, config: &HttpConfig, is_open: bool) {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}{}", config.base_path);
    let key = if is_open { "" } else { " -H 'x-api-key: KEY'" };
    info!(%url, "ready");
    super::say(format_args!("\nfaceid is ready at {url}  (reference: {url}/docs/)\n"));
    super::say(format_args!("  curl{key} -F subject=Ada -F image=@ada.jpg {url}/enroll"));
    super::say(format_args!("  curl{key} -F image=@group.jpg {url}/identify\n"));
}

/// The signals that end a server: Ctrl-C, what `kill` and container engines send, and a terminal that is closed.
struct Shutdown {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Shutdown {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::io("cannot listen for signals"));
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn requested(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::ByUser,
            _ = self.interrupt.recv() => Request::ByUser,
            _ = self.terminate.recv() => Request::ByOthers,
        }
    }
}

/// Who wants a server to end.
#[derive(PartialEq, Eq)]
enum Request {
    /// Somebody at the terminal, who waits for it.
    ByUser,
    /// Whatever looks after servers, and perhaps sends requests to them.
    ByOthers,
}
