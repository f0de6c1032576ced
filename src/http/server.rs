//! Accepts connections, and lets go of them in an orderly way.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::connections::{Connection, Connections};
use crate::config::HttpConfig;

/// How long to wait when the process has no more files for connections.
const BREATH: Duration = Duration::from_millis(100);

/// How long an answer may take to be written on a connection that has given way.
const FAREWELL: Duration = Duration::from_secs(1);

/// What answers requests. It may be replaced while a server serves; clones share it.
#[derive(Clone)]
pub struct Routes(Arc<RwLock<Router>>);

impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self(Arc::new(RwLock::new(router)))
    }
}

impl Routes {
    /// Lets another router answer all requests that begin from now on, those of open connections as well.
    pub fn replace(&self, router: Router) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    fn current(&self) -> Router {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves until `stop` is over, then takes no more connections and returns when the accepted requests are answered.
///
/// A connection whose request head does not arrive within the time for requests is closed; so is an idle one. Beyond
/// `max_connections` the one that is idle longest gives way to the next (see the module `connections`).
pub async fn serve(
    listener: TcpListener,
    routes: impl Into<Routes>,
    config: &HttpConfig,
    stop: impl Future<Output = ()>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    // Finding out the version has no time limit, so there is but one.
    builder = builder.http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.request_timeout);
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(config.max_connections);
    let (closing, closed) = watch::channel(());
    let host = Host { builder, routes: routes.into(), closed, head_timeout: config.request_timeout };
    // Dropping this future drops what is still in work.
    let mut tasks = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let has_room = connections.has_room();
        let stream = tokio::select! {
            accepted = accept(&listener), if has_room => accepted,
            () = connections.freed(), if !has_room => continue,
            _ = tasks.join_next(), if !tasks.is_empty() => continue,
            () = &mut stop => break,
        };
        // None if requests came in on those that were idle a moment ago.
        let Some(connection) = connections.admit() else { continue };
        let talk = host.clone().talk(stream, connection.clone(), graceful.watcher());
        tasks.spawn(async move {
            tokio::pin!(talk);
            tokio::select! {
                biased;
                () = connection.gives_way() => {}
                () = &mut talk => return,
            }
            // Nobody is in the middle of anything, unless it is the end of a refusal.
            if connection.is_in_work() {
                let _ = tokio::time::timeout(FAREWELL, talk).await;
            }
        });
    }
    drop(listener);
    // Connections that never said anything end here.
    drop(closing);
    graceful.shutdown().await;
}

/// What every connection is served with.
#[derive(Clone)]
struct Host {
    builder: Builder<TokioExecutor>,
    routes: Routes,
    /// Changes when the server is about to stop.
    closed: watch::Receiver<()>,
    head_timeout: Duration,
}

impl Host {
    /// Answers the requests of a connection until it ends.
    async fn talk(mut self, stream: TcpStream, connection: Connection, watcher: Watcher) {
        // hyper's clock starts with the first byte.
        let mut first = [0];
        tokio::select! {
            begun = tokio::time::timeout(self.head_timeout, stream.peek(&mut first)) => {
                if !matches!(begun, Ok(Ok(1))) {
                    return;
                }
            }
            _ = self.closed.changed() => return,
        }
        let routes = self.routes;
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let in_work = connection.begin();
            request.extensions_mut().insert(in_work.admission());
            let answer = TowerToHyperService::new(routes.current()).call(request);
            async move { answer.await.map(|answer| in_work.until_written(answer)) }
        });
        let talk = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(talk).await {
            debug!(%error, "a connection ended early");
        }
    }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What is answered on an open connection, in three letters.
    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let (mut head, mut body) = (Vec::new(), [0; 3]);
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.read_exact(&mut body).await.unwrap();
        String::from_utf8(body.into()).unwrap()
    }

    #[tokio::test]
    async fn an_open_connection_gets_other_routes_at_its_next_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let minutes = Duration::from_secs(600);
        let config = HttpConfig {
            bind: address,
            keys: None,
            max_body_bytes: 1 << 20,
            max_dataset_bytes: 1 << 20,
            body_budget: 1 << 20,
            max_connections: 8,
            request_timeout: minutes,
            shutdown_timeout: minutes,
        };
        let routes = Routes::from(Router::new().fallback(|| async { "old" }));
        let shown = routes.clone();
        let mut server = JoinSet::new();
        server.spawn(async move { serve(listener, shown, &config, std::future::pending()).await });
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut stream).await, "old");
        assert_eq!(ask(&mut stream).await, "old");
        routes.replace(Router::new().fallback(|| async { "new" }));
        assert_eq!(ask(&mut stream).await, "new");
        assert_eq!(ask(&mut TcpStream::connect(address).await.unwrap()).await, "new");
    }
}
