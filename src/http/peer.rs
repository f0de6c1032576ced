//! Where a request comes from: the other end of its connection or, where that is a proxy of ours, whom the proxy names.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};

use crate::config::TrustedProxies;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of a connection; an extension of its requests.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The address of whoever sent a request, as far as it can be believed. `None`: it came by no connection.
pub fn address(request: &Request, trusted: &TrustedProxies) -> Option<IpAddr> {
    let Peer(peer) = request.extensions().get()?;
    Some(behind(peer.ip().to_canonical(), request.headers(), trusted))
}

/// Each proxy adds from where it got the request to the end of a list, and everything before that may be made up. So the list is read
/// from its end, for as long as its entries are proxies that are trusted.
///
/// A proxy may write one of the headers and hand the other on as it came. Only where they agree, or one of them is not there, it is known
/// which of them it wrote; else the request counts as the proxy's own.
fn behind(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> IpAddr {
    if !trusted.has(peer) {
        return peer;
    }
    let x_forwarded = headers.contains_key(&X_FORWARDED_FOR).then(|| {
        let hops = entries(headers, &X_FORWARDED_FOR).map(node);
        first_untrusted(peer, hops, trusted)
    });
    let forwarded = headers.contains_key(header::FORWARDED).then(|| {
        let hops = entries(headers, &header::FORWARDED).map(forwarded_for);
        first_untrusted(peer, hops, trusted)
    });
    match (x_forwarded, forwarded) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(address), _) | (None, Some(address)) => address,
        (None, None) => peer,
    }
}

/// The entries of a list that may be spread over several headers, last first.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    headers.get_all(name).iter().rev().flat_map(|value| value.to_str().unwrap_or_default().rsplit(',')).map(str::trim)
}

/// Goes from proxy to proxy. Where one says nothing that can be read, the request counts as its own.
fn first_untrusted(peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>, trusted: &TrustedProxies) -> IpAddr {
    let mut last = peer;
    for hop in hops {
        let Some(hop) = hop else { break };
        last = hop;
        if !trusted.has(hop) {
            break;
        }
    }
    last
}

/// The `for` of an entry of `Forwarded` (RFC 7239): `for=192.0.2.43;proto=https`, `for="[2001:db8::17]:4711"`.
fn forwarded_for(entry: &str) -> Option<IpAddr> {
    entry.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| node(value.trim().trim_matches('"'))).flatten()
    })
}

/// An address, perhaps in brackets and with a port.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peer: &str, said: &[(&HeaderName, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted = "10.0.0.0/8,2001:db8:ffff::/48".parse().unwrap();
        behind(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_what_a_trusted_proxy_says_is_believed() {
        let (x, f) = (&X_FORWARDED_FOR, &header::FORWARDED);
        for (peer, said, expected) in [
            ("192.0.2.1", vec![(x, "203.0.113.9")], "192.0.2.1"),
            ("192.0.2.1", vec![(f, "for=203.0.113.9")], "192.0.2.1"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec![(x, "203.0.113.9")], "203.0.113.9"),
            // What the client said stands before what the proxy added.
            ("10.0.0.1", vec![(x, "198.51.100.1, 203.0.113.9")], "203.0.113.9"),
            ("10.0.0.1", vec![(x, "198.51.100.1"), (x, "203.0.113.9 ,10.2.3.4")], "203.0.113.9"),
            ("10.0.0.1", vec![(x, "10.0.0.3,10.0.0.2")], "10.0.0.3"),
            ("10.0.0.1", vec![(x, "203.0.113.9:4711")], "203.0.113.9"),
            ("10.0.0.1", vec![(x, "::ffff:203.0.113.9")], "203.0.113.9"),
            ("10.0.0.1", vec![(x, "2001:db8::1")], "2001:db8::1"),
            ("10.0.0.1", vec![(x, "[2001:db8::1]:80")], "2001:db8::1"),
            ("2001:db8:ffff::1", vec![(x, "203.0.113.9")], "203.0.113.9"),
            // Nobody knows who is beyond that.
            ("10.0.0.1", vec![(x, "203.0.113.9, unknown")], "10.0.0.1"),
            ("10.0.0.1", vec![(x, "203.0.113.9, who, 10.0.0.2")], "10.0.0.2"),
            ("10.0.0.1", vec![(x, "")], "10.0.0.1"),
            ("10.0.0.1", vec![(f, "for=198.51.100.1, for=203.0.113.9;proto=https;by=10.0.0.1")], "203.0.113.9"),
            ("10.0.0.1", vec![(f, "proto=https; For=\"[2001:db8::17]:4711\"")], "2001:db8::17"),
            ("10.0.0.1", vec![(f, "for=_hidden")], "10.0.0.1"),
            ("10.0.0.1", vec![(f, "proto=https")], "10.0.0.1"),
            // One of the two may be the client's.
            ("10.0.0.1", vec![(x, "203.0.113.9"), (f, "for=198.51.100.1")], "10.0.0.1"),
            ("10.0.0.1", vec![(x, "203.0.113.9"), (f, "for=203.0.113.9")], "203.0.113.9"),
        ] {
            assert_eq!(found(peer, &said), expected, "{peer} {said:?}");
        }
    }
}
