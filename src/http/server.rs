//! Accepts connections, and lets go of them in an orderly way.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::connections::{Connection, Connections, Heard, Overdue, Patience};
use super::peer::Peer;
use super::tls::Tls;
use crate::config::HttpConfig;

/// How long to wait when the process has no more files for connections.
const BREATH: Duration = Duration::from_millis(100);

/// How long what is still to be said may take on a connection that gives way or has rested too long.
const FAREWELL: Duration = Duration::from_secs(1);

/// Requests of one connection that may be in work at a time, over HTTP/2.
const STREAMS: u32 = 100;

/// How often a client of HTTP/2 is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);

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

/// Where a server is reached.
pub struct Port {
    pub listener: TcpListener,
    /// `None`: it speaks HTTP as it is.
    pub tls: Option<Tls>,
}

impl From<TcpListener> for Port {
    fn from(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }
}

/// Serves until `stop` is over, then takes no more connections and returns when the accepted requests are answered.
///
/// HTTP/1.1, and HTTP/2 with clients that begin with it or choose it with TLS. A connection whose request head does not arrive within
/// the time for requests is closed, and so is one that rests for longer than `idle_timeout`. Beyond `max_connections` one gives way to
/// the next (see the module `connections`).
pub async fn serve(
    port: impl Into<Port>,
    routes: impl Into<Routes>,
    config: &HttpConfig,
    stop: impl Future<Output = ()>,
) {
    let Port { listener, tls } = port.into();
    let connections = Connections::new(config.max_connections);
    let (closing, closed) = watch::channel(());
    let patience = Patience { head: config.request_timeout, rest: config.idle_timeout };
    let host = Host { routes: routes.into(), tls: tls.clone(), closed, patience };
    // Dropping this future drops what is still in work.
    let (mut tasks, mut beside) = (JoinSet::new(), JoinSet::new());
    if let Some(tls) = tls {
        beside.spawn(tls.follow());
    }
    tokio::pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = tasks.join_next(), if !tasks.is_empty() => continue,
            () = &mut stop => break,
        };
        let connection = tokio::select! {
            connection = connections.admit() => connection,
            () = &mut stop => break,
        };
        let talk = host.clone().talk(stream, peer, connection.clone());
        tasks.spawn(until_it_gives_way(talk, connection));
    }
    drop(listener);
    closing.send_replace(());
    while tasks.join_next().await.is_some() {}
}

/// Talks on a connection until that ends, or until somebody else is to have its place.
async fn until_it_gives_way(talk: impl Future<Output = ()>, connection: Connection) {
    tokio::pin!(talk);
    loop {
        tokio::select! {
            biased;
            () = connection.gives_way() => {}
            () = &mut talk => return,
        }
        // Only a stranger can be in the middle of something, who shows a key perhaps.
        if !connection.is_in_work() {
            return;
        }
        tokio::select! {
            () = &mut talk => return,
            () = connection.may_stay() => {}
            () = tokio::time::sleep(FAREWELL) => return,
        }
    }
}

/// The requests of one connection of HTTP/2, which end with it.
#[derive(Clone)]
struct Streams(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some(streams) = self.0.upgrade() else { return };
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }
}

fn builder(streams: Streams) -> Builder<Streams> {
    let mut builder = Builder::new(streams);
    // hyper would count the time between two requests as that of a head; `Host::talk` tells them apart.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// What every connection is served with.
#[derive(Clone)]
struct Host {
    routes: Routes,
    tls: Option<Tls>,
    /// Changes when the server is about to stop.
    closed: watch::Receiver<()>,
    patience: Patience,
}

impl Host {
    /// Answers the requests of a connection until it ends.
    async fn talk(mut self, stream: TcpStream, peer: Peer, connection: Connection) {
        let Some(tls) = self.tls.take() else { return self.answer(stream, peer, connection).await };
        // It has the time of the first head, of which it takes a part.
        let stream = tokio::select! {
            greeted = tls.greet(stream) => greeted,
            _ = self.closed.changed() => None,
            _ = connection.overdue(self.patience) => None,
        };
        if let Some(stream) = stream {
            self.answer(stream, peer, connection).await;
        }
    }

    async fn answer(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Peer,
        connection: Connection,
    ) {
        let routes = self.routes;
        let guest = connection.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let in_work = guest.begin();
            request.extensions_mut().insert(in_work.admission());
            request.extensions_mut().insert(peer);
            let answer = TowerToHyperService::new(routes.current()).call(request);
            async move { answer.await.map(|answer| in_work.until_written(answer)) }
        });
        let stream = TokioIo::new(Heard::new(stream, connection.clone()));
        let streams = Arc::new(Mutex::new(JoinSet::new()));
        let builder = builder(Streams(Arc::downgrade(&streams)));
        let talk = builder.serve_connection(stream, service);
        tokio::pin!(talk);
        let mut closing = false;
        let ended = loop {
            tokio::select! {
                ended = talk.as_mut() => break ended,
                _ = self.closed.changed(), if !closing => {
                    closing = true;
                    // One that has said nothing yet ends here.
                    talk.as_mut().graceful_shutdown();
                }
                overdue = connection.overdue(self.patience) => match overdue {
                    Overdue::Head => return,
                    Overdue::Rest => {
                        talk.as_mut().graceful_shutdown();
                        match tokio::time::timeout(FAREWELL, talk.as_mut()).await {
                            Ok(ended) => break ended,
                            Err(_) => return,
                        }
                    }
                },
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended early");
        }
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, Peer) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and written at once: waiting to fill a packet only delays them.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                return (stream, Peer(peer));
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
    use crate::config::Settings;

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
        let config = Settings::default().into_config().unwrap().http;
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
