use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::CliError;
use crate::app::App;
use crate::config::{Config, ConfigArgs, HttpConfig};
use crate::http::{AppState, Routes, router, starting};
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
    // Before the slow parts start: a port that is taken shows at once, and so does that the server lives.
    let listener = TcpListener::bind(config.http.bind)
        .await
        .map_err(CliError::io(format!("cannot listen on {}", config.http.bind)))?;
    let address = listener.local_addr().map_err(CliError::io("cannot read the listening address"))?;
    let mut shutdown = Shutdown::new()?;
    let progress = StartProgress::default();
    let door = Door::open(listener, starting(progress.clone(), &config.http).into(), &config.http);
    let start = App::start(&config, &progress);
    tokio::pin!(start);
    let mut app = tokio::select! {
        app = &mut start => app?,
        () = shutdown.requested() => {
            door.stop.notify_one();
            // What has been started is best stopped in order, so the start is finished, unless that takes too long or the user
            // insists.
            tokio::select! {
                app = &mut start => return stop(app?, &mut shutdown).await,
                () = tokio::time::sleep(config.http.shutdown_timeout) => return Ok(()),
                () = shutdown.requested() => return Ok(()),
            }
        }
    };
    app.work_on_jobs(&Lane::ALL);
    door.routes.replace(router(AppState::new(app.services.clone(), &config.http)));
    announce(address, &config.http);
    answer(door, &app, &config.http, &mut shutdown).await;
    stop(app, &mut shutdown).await
}

/// Stops the parts in order, unless the user insists; then the private Postgres is stopped by its guard.
async fn stop(app: App, shutdown: &mut Shutdown) -> Result<(), CliError> {
    tokio::select! {
        () = app.stop() => (),
        () = shutdown.requested() => warn!("stopping at once"),
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
    fn open(listener: TcpListener, routes: Routes, config: &HttpConfig) -> Self {
        let (stop, mut server) = (Arc::new(Notify::new()), JoinSet::new());
        let (shown, stopping, config) = (routes.clone(), Arc::clone(&stop), config.clone());
        server.spawn(async move { crate::http::serve(listener, shown, &config, stopping.notified()).await });
        Self { routes, stop, server }
    }
}

/// Serves until asked to stop, then finishes what was accepted, within the time for it.
async fn answer(mut door: Door, app: &App, config: &HttpConfig, shutdown: &mut Shutdown) {
    let deadline = async {
        shutdown.requested().await;
        info!("stopping: finishing the accepted requests; once more to stop at once");
        app.services.upkeep.close();
        door.stop.notify_one();
        tokio::select! {
            () = tokio::time::sleep(config.shutdown_timeout) => warn!("some requests took too long and are dropped"),
            () = shutdown.requested() => warn!("dropping the requests in work"),
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

/// What a new user needs to see.
fn announce(address: SocketAddr, config: &HttpConfig) {
    let url = format!("http://{address}");
    let key = if config.keys.is_some() { " -H 'x-api-key: CLIENT_KEY'" } else { "" };
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

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => (),
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}
