//! Without credentials only this machine may call, and only of its own accord.

use http::{HeaderMap, Uri, header};
use workers_protocol::{Code, InferError};

/// Refuses a `Host` that is no loopback name, since a page may give its own name this machine's
/// address (DNS rebinding), and an `Origin` that is none, since a page may send requests anywhere.
///
/// # Errors
/// `PermissionDenied`, naming what is foreign.
pub(crate) fn check(headers: &HeaderMap, uri: &Uri) -> Result<(), InferError> {
    let refuse = |what: &str, value: &str| {
        Err(InferError::new(
            Code::PermissionDenied,
            format!(
                "{what} {value:?} is not this machine: without credentials only loopback names are answered"
            ),
        ))
    };
    if let Some(authority) = uri.authority()
        && !is_loopback(authority.as_str())
    {
        return refuse("the request's target", authority.as_str());
    }
    for host in headers.get_all(header::HOST) {
        let host = host.to_str().unwrap_or("(not text)");
        if !is_loopback(host) {
            return refuse("Host", host);
        }
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("(not text)");
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(is_loopback) {
            return refuse("Origin", origin);
        }
    }
    Ok(())
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
