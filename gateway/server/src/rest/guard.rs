//! Which pages a browser may call from, and under which name.
//!
//! A page may send requests anywhere, and give its own name this machine's address (DNS rebinding).
//! What a browser says of a page that calls is checked before anything else, with credentials too: a
//! browser that was asked for them once sends them along, whoever makes it call.

use std::str::FromStr;

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use workers_protocol::{Code, InferError};

/// How long a browser may remember what it may send, in seconds; none remembers longer.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("7200");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS");
/// All; `*` alone leaves this one out (Fetch standard, § 4.9).
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, *");
const ANYTHING: HeaderValue = HeaderValue::from_static("*");

/// A page's origin, as `--cors-origin` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowedOrigin {
    Any,
    /// As browsers send it: `https://example.org`.
    One(HeaderValue),
}

/// Refuses what foreign pages send.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Whether nobody is asked for credentials, so that only this machine may call.
    is_open: bool,
    origins: Vec<AllowedOrigin>,
}

/// What an answer says to a page of another origin.
pub(crate) struct Cors {
    /// None where the request's page is not one of those that may read.
    allowed: Option<HeaderValue>,
    is_preflight: bool,
}

// === impl AllowedOrigin ===

impl FromStr for AllowedOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let is_origin = text.parse::<Uri>().is_ok_and(|uri| {
            let scheme = uri.scheme_str().unwrap_or_default();
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            // Nothing behind it, and written as browsers do: the comparison is by bytes.
            !authority.contains('@')
                && text == format!("{scheme}://{authority}").to_ascii_lowercase()
        });
        HeaderValue::from_str(text)
            .ok()
            .filter(|_| is_origin)
            .map(Self::One)
            .ok_or_else(|| {
                format!("{text:?}: expected scheme, host and port in lower case, as `https://example.org` or `http://localhost:3000`, or `*`")
            })
    }
}

// === impl Guard ===

impl Guard {
    pub(crate) fn new(is_open: bool, origins: Vec<AllowedOrigin>) -> Self {
        Self { is_open, origins }
    }

    /// Refuses, where nobody is asked for credentials, a `Host` that is no loopback name; and always
    /// an `Origin` that is neither allowed nor the server's own, and what a browser sends for a page
    /// of another site without saying which, unless somebody goes there.
    ///
    /// # Errors
    /// `PermissionDenied`, naming what is foreign.
    pub(crate) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), InferError> {
        let refuse = |message: String| Err(InferError::new(Code::PermissionDenied, message));
        // HTTP/2 has no `Host` of its own.
        let target = uri.authority().map(|authority| authority.as_str());
        let hosts = || headers.get_all(header::HOST).iter().map(text).chain(target);
        if self.is_open
            && let Some(host) = hosts().find(|host| !is_loopback(host))
        {
            return refuse(format!(
                "Host {host:?} is not this machine: without credentials only loopback names are answered"
            ));
        }
        let is_own = |origin: &HeaderValue| {
            let Some(("http" | "https", authority)) = text(origin).split_once("://") else {
                return false;
            };
            match self.is_open {
                true => is_loopback(authority),
                false => hosts().any(|host| host.eq_ignore_ascii_case(authority)),
            }
        };
        let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
        let is_nameless = origins.peek().is_none();
        if let Some(origin) = origins.find(|origin| !self.allows(origin) && !is_own(origin)) {
            return refuse(format!(
                "Origin {:?} is not this server's: pages of others may call with `--cors-origin` only",
                text(origin)
            ));
        }
        let says = |name: &str, what: &str| headers.get(name).is_some_and(|value| value == what);
        let is_visit = method == Method::GET && says("sec-fetch-mode", "navigate");
        if is_nameless && says("sec-fetch-site", "cross-site") && !is_visit {
            return refuse("a page of another site sent this, and does not say which".to_owned());
        }
        Ok(())
    }

    /// Returns what to add to the answer, if pages of others may call at all.
    pub(super) fn cors(&self, request: &Request) -> Option<Cors> {
        if self.origins.is_empty() {
            return None;
        }
        let origin = request.headers().get(header::ORIGIN);
        let allowed = match self.origins.contains(&AllowedOrigin::Any) {
            true => Some(ANYTHING),
            false => origin.filter(|origin| self.allows(origin)).cloned(),
        };
        let is_preflight = allowed.is_some()
            && origin.is_some()
            && request.method() == Method::OPTIONS
            && request
                .headers()
                .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Some(Cors {
            allowed,
            is_preflight,
        })
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| match allowed {
            AllowedOrigin::Any => true,
            AllowedOrigin::One(allowed) => allowed == origin,
        })
    }
}

// === impl Cors ===

impl Cors {
    /// Whether a browser asks what it may send, which it does without credentials.
    pub(super) const fn is_preflight(&self) -> bool {
        self.is_preflight
    }

    /// Answers the browser's question.
    pub(super) fn answer() -> Response {
        let headers = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S),
        ];
        (StatusCode::NO_CONTENT, headers).into_response()
    }

    /// Lets the page read the answer; its browser's own credentials are never asked for.
    pub(super) fn add(self, headers: &mut HeaderMap) {
        let mut add = |name: HeaderName, value| headers.append(name, value);
        let is_any = self.allowed == Some(ANYTHING);
        if let Some(allowed) = self.allowed {
            add(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            add(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANYTHING);
        }
        if !is_any {
            // What another page gets is another answer.
            add(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("(not text)")
}

/// Whether `name[:port]` is `localhost`, one of 127.0.0.0/8, or `[::1]`.
fn is_loopback(authority: &str) -> bool {
    let (name, port) = match authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, "")) => (address, ""),
        Some((address, rest)) => match rest.strip_prefix(':') {
            Some(port) => (address, port),
            None => return false,
        },
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    is_port && is_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_are_told_from_others() {
        for name in [
            "localhost",
            "LocalHost:80",
            "127.0.0.1",
            "127.1.2.3:8080",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1",
            "[::2]",
            "[::1]x",
            "localhost:80@example.org",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
