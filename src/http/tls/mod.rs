//! HTTPS: the certificate that a server shows, which may change while it serves, and the handshake.

mod files;
mod greeting;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use self::files::Files;
use crate::config::{ClientAuth, TlsConfig};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// From so many days before its end, the log warns of a certificate once a day.
const NOTICE: i64 = 14;

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read {setting} = {}: {source}", path.display())]
    Unreadable { setting: &'static str, path: PathBuf, source: io::Error },
    #[error("{setting} = {} is not usable: {reason}", path.display())]
    Unusable { setting: &'static str, path: PathBuf, reason: String },
    #[error("tls_key = {} is not the key of the certificate in tls_cert = {}", key.display(), cert.display())]
    OtherKey { cert: PathBuf, key: PathBuf },
    #[error("the certificate in tls_cert = {} expired at {at}, and the one in use did not", path.display())]
    Expired { path: PathBuf, at: DateTime<Utc> },
    #[error("the certificate in tls_cert = {} is not valid before {from}, and the one in use is", path.display())]
    Early { path: PathBuf, from: DateTime<Utc> },
}

/// What a server speaks TLS by. It may be replaced while it serves; clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    config: TlsConfig,
    current: RwLock<Current>,
}

/// What new connections get.
struct Current {
    server: Arc<ServerConfig>,
    begins: DateTime<Utc>,
    expires: DateTime<Utc>,
    /// What it was made of.
    files: Files,
}

impl Current {
    fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.begins <= now && now < self.expires
    }
}

impl Tls {
    /// Reads and checks the files of a configuration.
    pub async fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let files = Files::read(&config).await?;
        let current = files.into_current(&config)?;
        info!(expires = %current.expires, client_certificates = %config.client_auth, "TLS is on");
        Ok(Self(Arc::new(Shared { config, current: RwLock::new(current) })))
    }

    /// Follows the files: new connections get what is in them. What cannot be used is refused, and the former files stay in use. Never
    /// returns.
    pub async fn follow(self) {
        let mut tried = self.current().files.clone();
        let (mut interval, mut said) = (tokio::time::interval(LOOK), None);
        let mut unread = 0_u32;
        loop {
            interval.tick().await;
            match Files::read(&self.0.config).await {
                Ok(files) => {
                    unread = 0;
                    if files != tried {
                        tried = files.clone();
                        self.replace(files);
                    }
                }
                Err(error) => {
                    unread = unread.saturating_add(1);
                    // While a file is being replaced it may be missing for one look.
                    if unread == 2 {
                        warn!(%error, "a file of TLS cannot be read; the certificate in use stays in use");
                    }
                }
            }
            self.watch_expiry(&mut said);
        }
    }

    fn replace(&self, files: Files) {
        match files.into_current(&self.0.config).and_then(|next| self.no_worse(next)) {
            Ok(next) => {
                info!(expires = %next.expires, "the files of TLS changed: new connections get what is in them");
                *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = next;
            }
            Err(error) => warn!(%error, "the files of TLS changed and cannot be used; the former ones stay in use"),
        }
    }

    /// A certificate that is not valid, any more or yet, is no better than one that is.
    fn no_worse(&self, next: Current) -> Result<Current, TlsError> {
        let now = Utc::now();
        let path = || self.0.config.cert.clone();
        if !self.current().is_valid(now) || next.is_valid(now) {
            Ok(next)
        } else if next.expires <= now {
            Err(TlsError::Expired { path: path(), at: next.expires })
        } else {
            Err(TlsError::Early { path: path(), from: next.begins })
        }
    }

    /// Shows when the certificate ends, and says so in the log when that is soon, once a day.
    fn watch_expiry(&self, said: &mut Option<(DateTime<Utc>, DateTime<Utc>)>) {
        let (expires, now) = (self.current().expires, Utc::now());
        metrics::gauge!("faceid_tls_certificate_expires_timestamp_seconds").set(expires.timestamp() as f64);
        let is_news = said.is_none_or(|(of, at)| of != expires || now - at >= TimeDelta::days(1));
        if expires - now > TimeDelta::days(NOTICE) || !is_news {
            return;
        }
        *said = Some((expires, now));
        if expires <= now {
            warn!(%expires, "the certificate in tls_cert has expired: clients refuse it");
        } else {
            warn!(%expires, "the certificate in tls_cert expires soon");
        }
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handshake of a new connection. `None`: nothing came of it, and it is over.
    pub async fn greet(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        if !greeting::is_tls(&stream).await {
            greeting::turn_away(stream).await;
            return None;
        }
        let server = Arc::clone(&self.current().server);
        match TlsAcceptor::from(server).accept(stream).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                debug!(%error, "a handshake came to nothing");
                None
            }
        }
    }
}
