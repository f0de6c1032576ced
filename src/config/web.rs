//! Settings of how clients, pages and proxies reach a server.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// By what a server speaks TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The certificate, with those that vouch for it.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Who vouches for clients; there, unless `client_auth` is off.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    Off,
    /// One that is shown must be good.
    Optional,
    Required,
}

impl fmt::Display for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        })
    }
}

/// Whose pages may call the server from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Everybody's.
    Any,
    /// Those of these origins, as browsers write them.
    Listed(Vec<String>),
}

impl FromStr for CorsOrigins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let origins: Vec<&str> = text.split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
        if origins == ["*"] {
            return Ok(Self::Any);
        }
        if origins.is_empty() {
            return Err("no origin is given: origins such as https://photos.example are expected, or *".to_owned());
        }
        origins.into_iter().map(origin).collect::<Result<_, _>>().map(Self::Listed)
    }
}

/// An origin as browsers write it; anything else would never match.
fn origin(text: &str) -> Result<String, String> {
    let wrong = |why: &str| format!("{text:?} is no origin: {why}");
    if text == "*" {
        return Err(wrong("* stands alone or not at all"));
    }
    let form = "a scheme, a host and, unless it is the usual one, a port are expected, such as https://photos.example";
    let url = Url::parse(text).map_err(|_| wrong(form))?;
    let host = url.host_str().filter(|host| !host.is_empty() && !host.contains('*')).ok_or_else(|| wrong(form))?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let written = format!("{}://{host}{port}", url.scheme());
    if written == text { Ok(written) } else { Err(wrong(&format!("{form}; browsers would write {written}"))) }
}

impl fmt::Display for CorsOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Listed(origins) => f.write_str(&origins.join(",")),
        }
    }
}

/// The path below which a server answers: empty, or one such as `/faces`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BasePath(String);

impl BasePath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for BasePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "/" {
            return Ok(Self::default());
        }
        let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"-._~".contains(&letter);
        let good = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        match text.strip_prefix('/') {
            Some(parts) if parts.split('/').all(good) => Ok(Self(text.to_owned())),
            _ => Err(format!(
                "{text:?} is no base path: one such as /faces is expected, of letters, digits and -._~, without a slash at its end"
            )),
        }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The networks of the proxies in front.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty()).map(|text| {
            let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("{text:?} is no network: one such as 10.0.0.0/8, or an address, is expected"))
        });
        let networks: Vec<IpNet> = networks.collect::<Result<_, _>>()?;
        match networks.iter().find(|network| network.prefix_len() == 0) {
            Some(all) => Err(format!("{all} is everybody: who is trusted like that may come from anywhere")),
            None => Ok(Self(networks)),
        }
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","))
    }
}

/// All are texts in the file.
macro_rules! text_in_file {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_in_file!(CorsOrigins);
text_in_file!(BasePath);
text_in_file!(TrustedProxies);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for text in ["*", "https://a.example", "http://localhost:5173,https://b.example", "capacitor://localhost"] {
            assert_eq!(text.parse::<CorsOrigins>().unwrap().to_string(), text);
        }
        let spaced: CorsOrigins = " https://a.example , https://b.example:8443,".parse().unwrap();
        assert_eq!(spaced.to_string(), "https://a.example,https://b.example:8443");
        for (text, why) in [
            ("", "no origin is given"),
            ("a.example", "a scheme, a host"),
            ("null", "a scheme, a host"),
            ("https://", "a scheme, a host"),
            ("https://a.example/", "browsers would write https://a.example"),
            ("https://a.example/app?x=1", "browsers would write https://a.example"),
            ("https://A.example", "browsers would write https://a.example"),
            ("https://a.example:443", "browsers would write https://a.example"),
            ("https://ada@a.example", "browsers would write https://a.example"),
            ("https://*.example", "a scheme, a host"),
            ("https://a.example,*", "* stands alone"),
        ] {
            let refused = text.parse::<CorsOrigins>().unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn proxies_are_networks_or_addresses() {
        let proxies: TrustedProxies = "10.0.0.0/8, 192.0.2.7,2001:db8::/32,".parse().unwrap();
        assert_eq!(proxies.to_string(), "10.0.0.0/8,192.0.2.7/32,2001:db8::/32");
        for (address, trusted) in
            [("10.9.8.7", true), ("192.0.2.7", true), ("192.0.2.8", false), ("2001:db8::1", true), ("::1", false)]
        {
            assert_eq!(proxies.has(address.parse().unwrap()), trusted, "{address}");
        }
        for wrong in ["proxy.example", "10.0.0.0/33", "0.0.0.0/0", "::/0", "10.0.0"] {
            assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn base_paths_are_plain() {
        for (text, path) in [("", ""), ("/", ""), ("/faces", "/faces"), ("/a/b-2.c_~", "/a/b-2.c_~")] {
            assert_eq!(text.parse::<BasePath>().unwrap().as_str(), path);
        }
        for text in ["faces", "/faces/", "//", "/a//b", "/a/../b", "/.", "/a b", "/a?b", "/%41", "/{a}", "/ä"] {
            assert!(text.parse::<BasePath>().is_err(), "{text}");
        }
    }
}
