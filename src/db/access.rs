//! Where the database is, as the configuration says it.

use std::fs::File;
use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;

use super::DbError;
use crate::config::{DatabaseConfig, Secret};

/// How messages call the setting of each URL.
pub(super) const URL: &str = "DATABASE_URL (or database_url)";
const SESSION_URL: &str = "FACEID_DATABASE_SESSION_URL (or database_session_url)";

/// Parameters of a URL that name files, as sqlx knows them.
const TLS_FILES: [&str; 7] = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// Where the database is and how to get there.
#[derive(Debug, Clone)]
pub struct Access {
    /// For the requests; with `sessions`, it may lead through a pooler that lends its connections by transaction.
    pub requests: PgConnectOptions,
    /// For what needs a session of its own: migrations, listening and what lasts.
    pub sessions: Option<PgConnectOptions>,
    /// The schema of our tables; `None`: the first of the role's `search_path`.
    pub schema: Option<String>,
    /// Whether it is sure that no pooler is in between.
    pub is_direct: bool,
}

impl From<PgConnectOptions> for Access {
    fn from(requests: PgConnectOptions) -> Self {
        Self { requests, sessions: None, schema: None, is_direct: true }
    }
}

impl Access {
    /// To the database of `url`.
    pub(super) fn configured(url: &Secret, config: &DatabaseConfig) -> Result<Self, DbError> {
        Ok(Self {
            requests: parse(URL, url)?,
            sessions: config.session_url.as_ref().map(|url| parse(SESSION_URL, url)).transpose()?,
            schema: config.schema.clone(),
            is_direct: false,
        })
    }

    /// Says of an error on the way to `options` what the matter is.
    pub(super) fn explain(&self, options: Way, error: sqlx::Error) -> DbError {
        let setting = match options {
            Way::Requests => URL,
            Way::Sessions if self.sessions.is_some() => SESSION_URL,
            Way::Sessions => URL,
        };
        match error {
            sqlx::Error::Tls(reason) => DbError::Tls { setting, reason: reason.to_string() },
            // How rustls says what is wrong with a certificate.
            sqlx::Error::Io(reason) if reason.kind() == std::io::ErrorKind::InvalidData => {
                DbError::Tls { setting, reason: reason.to_string() }
            }
            error => error.into(),
        }
    }

    pub(super) fn by(&self, way: Way) -> &PgConnectOptions {
        match way {
            Way::Requests => &self.requests,
            Way::Sessions => self.sessions.as_ref().unwrap_or(&self.requests),
        }
    }
}

/// Which of the two URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Requests,
    Sessions,
}

fn parse(setting: &'static str, url: &Secret) -> Result<PgConnectOptions, DbError> {
    let options: PgConnectOptions =
        url.expose().parse().map_err(|error: sqlx::Error| DbError::Url { setting, reason: error.to_string() })?;
    for (parameter, path) in tls_files(url.expose()) {
        if let Err(source) = File::open(&path) {
            return Err(DbError::TlsFile { setting, parameter, path, source });
        }
    }
    // How many digits a number has as text; we read none as text, and poolers refuse to be told.
    Ok(options.extra_float_digits(None))
}

/// The files that a URL names, each with the parameter that does. A certificate may stand in the URL itself.
fn tls_files(url: &str) -> Vec<(String, PathBuf)> {
    let Ok(url) = url::Url::parse(url) else { return Vec::new() };
    url.query_pairs()
        .filter(|(name, value)| TLS_FILES.contains(&&**name) && !value.trim_start().starts_with("-----BEGIN"))
        .map(|(name, value)| (name.into_owned(), Path::new(&*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_certificate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let present = folder.path().join("present.pem");
        std::fs::write(&present, "").unwrap();
        let url =
            |rest: String| Secret::from(format!("postgres://user:secret@db.example/faceid?sslmode=verify-full{rest}"));
        for parameter in ["sslrootcert", "sslcert", "sslkey"] {
            let missing = folder.path().join("missing.pem");
            let error = parse(URL, &url(format!("&{parameter}={}", missing.display()))).unwrap_err().to_string();
            assert!(error.contains(&missing.display().to_string()) && error.contains(parameter), "{error}");
            assert!(!error.contains("secret"), "{error}");
            parse(URL, &url(format!("&{parameter}={}", present.display()))).unwrap();
        }
        parse(URL, &url("&sslrootcert=-----BEGIN%20CERTIFICATE-----".to_owned())).unwrap();
        parse(URL, &url(String::new())).unwrap();
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_told_from_a_server_that_is_not_there() {
        let access = Access::from(PgConnectOptions::new_without_pgpass());
        let untrusted = std::io::Error::new(std::io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        let error = access.explain(Way::Sessions, sqlx::Error::Io(untrusted));
        assert!(matches!(&error, DbError::Tls { reason, .. } if reason.contains("UnknownIssuer")), "{error}");
        let absent = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(matches!(access.explain(Way::Sessions, sqlx::Error::Io(absent)), DbError::Unavailable(_)));
    }

    #[test]
    fn what_is_no_url_is_refused_by_the_name_of_its_setting() {
        let error = parse(SESSION_URL, &Secret::from("nonsense".to_owned())).unwrap_err();
        assert!(matches!(&error, DbError::Url { setting, .. } if setting.contains("SESSION")), "{error}");
    }
}
