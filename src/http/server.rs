//! Accepts connections, and lets go of them in an orderly way.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::config::HttpConfig;

/// How long to wait when the process has no more files for connections.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until `stop` is over, then takes no more connections and returns when the accepted requests are answered.
///
/// A connection whose request head does not arrive within the time for requests is closed; so is an idle one.
/// Connections beyond `max_connections` wait to be accepted.
pub async fn serve(listener: TcpListener, router: Router, config: &HttpConfig, stop: impl Future<Output = ()>) {
    let mut builder = Builder::new(TokioExecutor::new());
    // Finding out the version has no time limit, so there is but one.
    builder = builder.http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.request_timeout);
    let connections = GracefulShutdown::new();
    let (closing, closed) = watch::channel(());
    // Dropping this future drops what is still in work.
    let mut tasks = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = accept(&listener), if tasks.len() < config.max_connections => accepted,
            _ = tasks.join_next(), if !tasks.is_empty() => continue,
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let (builder, watcher, mut closed) = (builder.clone(), connections.watcher(), closed.clone());
        let head_timeout = config.request_timeout;
        tasks.spawn(async move {
            // hyper's clock starts with the first byte.
            let mut first = [0];
            tokio::select! {
                begun = tokio::time::timeout(head_timeout, stream.peek(&mut first)) => {
                    if !matches!(begun, Ok(Ok(1))) {
                        return;
                    }
                }
                _ = closed.changed() => return,
            }
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            let connection = watcher.watch(connection);
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    // Connections that never said anything end here.
    drop(closing);
    connections.shutdown().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small and written at once: waiting to fill a packet only delays them.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                return stream;
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}
