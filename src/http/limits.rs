//! Counts what a caller, or an address, asks for. Every request but the probes passes here first, before permissions are checked, so
//! that guesses at keys are counted too.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::auth::{Recognised, shown_key};
use super::health::is_probe;
use super::holding::holding;
use super::peer;
use super::problem::{Code, Problem};
use crate::config::HttpConfig;
use crate::limits::{Account, AddressPlace, AddressState, Addresses, Refusal};
use crate::service::Access;

/// draft-ietf-httpapi-ratelimit-headers-10
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// What requests are counted by. Cloning is cheap.
#[derive(Clone)]
pub struct Gate(Arc<Parts>);

struct Parts {
    access: Access,
    addresses: Addresses,
    config: Arc<HttpConfig>,
}

/// What a request that is let in holds until it is answered, and what its answer says.
#[derive(Default)]
struct Pass {
    places: Places,
    account: Option<Arc<Account>>,
    address: Option<AddressState>,
}

/// Places among the requests in work.
#[derive(Default)]
struct Places {
    own: Option<OwnedSemaphorePermit>,
    address: Option<AddressPlace>,
}

impl Gate {
    pub fn new(access: Access, config: Arc<HttpConfig>) -> Self {
        Self(Arc::new(Parts { access, addresses: Addresses::new(config.addresses), config }))
    }
}

impl Parts {
    /// Counts a request, and notes in it who shows a key.
    fn admit(&self, request: &mut Request) -> Result<Pass, Problem> {
        let recognised = self.access.recognise(shown_key(request.headers())).ok();
        let address = match self.addresses.matter() {
            true => peer::address(request, &self.config.trusted_proxies),
            false => None,
        };
        let mut pass = Pass::default();
        if let Some(address) = address {
            pass.places.address = self.addresses.place(address)?;
        }
        let Some(caller) = recognised else {
            pass.address = address.map(|address| self.at(self.addresses.count(address))).transpose()?.flatten();
            return Ok(pass);
        };
        if let (Some(address), Some(account)) = (address, caller.account()) {
            pass.address = self.at(self.known(address, caller.is_anyone(), account))?;
        }
        if let Some(account) = caller.account() {
            pass.account = Some(Arc::clone(account));
            match account.enter() {
                Ok(place) => pass.places.own = place,
                Err(refusal) => return Err(pass.refuse(refusal)),
            }
        }
        request.extensions_mut().insert(Recognised(caller));
        Ok(pass)
    }

    /// What an address is answered that has sent too much.
    fn at<T>(&self, counted: Result<T, Refusal>) -> Result<T, Problem> {
        counted.map_err(|refusal| {
            let limits = self.addresses.refused(&refusal).map(|left| Box::new([left.policy, left.state]));
            Problem { limits, ..Problem::from(refusal) }
        })
    }

    /// Of a server without keys all are known, and are told apart by their addresses if that was asked for.
    fn known(&self, address: IpAddr, is_open: bool, account: &Account) -> Result<Option<AddressState>, Refusal> {
        match (is_open, self.addresses.count_at_open_servers()) {
            (true, true) => self.addresses.count(address),
            (true, false) => Ok(None),
            (false, _) => self.addresses.recognise(address, account).map(|()| None),
        }
    }
}

impl Pass {
    /// The answer to a caller who has had what they may have.
    fn refuse(&self, refusal: Refusal) -> Problem {
        Problem { limits: self.told().map(Box::new), ..Problem::from(refusal) }
    }

    /// The limits and what is left, if there are any.
    fn told(&self) -> Option<[String; 2]> {
        let own = self.account.as_ref().filter(|account| !account.policies().is_empty());
        let own = own.map(|account| [account.policies().to_owned(), account.state()]);
        let address = self.address.as_ref().map(|left| [left.policy.clone(), left.state.clone()]);
        match (own, address) {
            (Some(own), Some(address)) => {
                let mut both = own.into_iter().zip(address).map(|(one, other)| format!("{one}, {other}"));
                Some([both.next().unwrap_or_default(), both.next().unwrap_or_default()])
            }
            (own, address) => own.or(address),
        }
    }

    /// Says in an answer what is left, and keeps the places until all of it is written.
    fn answer(self, mut response: Response) -> Response {
        if let Some(told) = self.told() {
            tell(&mut response, told);
        }
        if self.places.own.is_none() && self.places.address.is_none() {
            return response;
        }
        response.map(|body| holding(body, self.places))
    }
}

/// The headers of limits.
pub fn tell(response: &mut Response, [policy, state]: [String; 2]) {
    for (name, value) in [(POLICY, policy), (STATE, state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// Counts a request, and refuses one too many. Whoever asks whether a server lives is always answered.
pub async fn count(State(Gate(gate)): State<Gate>, mut request: Request, next: Next) -> Response {
    if is_probe(request.uri().path()) {
        return next.run(request).await;
    }
    match gate.admit(&mut request) {
        Ok(pass) => pass.answer(next.run(request).await),
        Err(problem) => problem.into_response(),
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        metrics::counter!("faceid_limited_total", "kind" => refusal.kind()).increment(1);
        let code = match &refusal {
            Refusal::Requests { .. } | Refusal::Pixels { .. } | Refusal::Address { .. } => Code::RateLimited,
            Refusal::Concurrent { .. } | Refusal::AddressConcurrent { .. } => Code::TooManyConcurrent,
            Refusal::PixelsBeyondBurst { .. } => Code::PixelsBeyondLimit,
        };
        Self { retry_after: refusal.retry_after(), ..Self::new(code, refusal.to_string()) }
    }
}
