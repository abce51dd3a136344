//! Who calls: the administrator, a service, or nobody.
//!
//! There are four roles. The administrator may do everything and says so with Basic credentials; a
//! service's token, as Bearer, opens `/run` and `/job` of that service; that of events opens what they
//! are posted to; nobody may ask for health.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use workers_protocol::{Code, InferError};
use zeroize::Zeroizing;

use crate::routes::{EVENTS, HEALTH, JOB, LIVE, OPENAPI, READY, RUN};

/// Most bytes of `name:password`: what is compared is hashed first, for anybody who asks.
const MAX_PAIR_BYTES: usize = 1024;
/// The methods of gRPC that anybody may call: what probes call, which have no credentials.
const OPEN_METHODS: [&str; 4] = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Text that no log shows, and that is overwritten when it is dropped.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

/// The administrator's name and password, as what can be compared and not be read.
#[derive(Clone)]
pub(crate) struct Administrator {
    digest: [u8; 32],
}

/// The tokens of the services.
pub(crate) trait Tokens: fmt::Debug + Send + Sync {
    /// Returns the token of the service of this name, if there is one.
    fn token(&self, service: &str) -> Option<Secret>;
}

/// Tells who may call what.
#[derive(Debug)]
pub(crate) struct Auth {
    /// None where nobody is asked for credentials.
    administrator: Option<Administrator>,
    tokens: Arc<dyn Tokens>,
    /// Of those who announce objects.
    events: Secret,
}

/// Whom a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Anybody,
    /// The administrator, and the token of the service that `{name}` names.
    Service,
    /// The administrator, and the token of those who announce objects.
    Events,
    Administrator,
}

/// What an `Authorization` header says.
enum Credentials {
    /// `name:password`.
    Basic(Zeroizing<Vec<u8>>),
    Bearer(Secret),
}

// === impl Secret ===

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that depends on the lengths alone.
    fn is(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

// === impl Administrator ===

impl Administrator {
    /// # Errors
    /// When no client could send them, or everybody could guess them; a sentence.
    pub(crate) fn new(username: &str, password: &Secret) -> anyhow::Result<Self> {
        let password = password.expose();
        anyhow::ensure!(
            !username.is_empty() && !username.contains(':'),
            "the user name is {username:?}, expected at least a character and no colon (RFC 7617)"
        );
        anyhow::ensure!(!password.is_empty(), "the password is empty");
        let pair = Zeroizing::new(format!("{username}:{password}"));
        anyhow::ensure!(
            pair.len() <= MAX_PAIR_BYTES,
            "user name and password have {} bytes together, expected at most {MAX_PAIR_BYTES}",
            pair.len()
        );
        Ok(Self {
            digest: Sha256::digest(pair.as_bytes()).into(),
        })
    }

    /// Compares name and password as one, and their digests: the time tells neither whether the name
    /// was right nor how long anything is.
    fn is(&self, pair: &[u8]) -> bool {
        pair.len() <= MAX_PAIR_BYTES && Sha256::digest(pair).ct_eq(&self.digest).into()
    }
}

impl fmt::Debug for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Administrator")
    }
}

// === impl Auth ===

impl Auth {
    pub(crate) fn new(
        administrator: Option<Administrator>,
        tokens: Arc<dyn Tokens>,
        events: Secret,
    ) -> Self {
        Self {
            administrator,
            tokens,
            events,
        }
    }

    /// Whether a call comes with the token of this service.
    pub(crate) fn is_service(&self, service: &str, headers: &HeaderMap) -> bool {
        let Ok(Credentials::Bearer(token)) = Credentials::read(headers) else {
            return false;
        };
        let own = self.tokens.token(service);
        own.is_some_and(|own| own.is(&token))
    }

    /// Whether everybody is the administrator.
    pub(crate) const fn is_open(&self) -> bool {
        self.administrator.is_none()
    }

    /// Lets a call of this route through, or not. A failed attempt costs a hash of a few bytes and is
    /// not delayed: a delay would hold connections, and a lock would lock the administrator out.
    ///
    /// # Errors
    /// `Unauthenticated`, saying what was expected, and of what came nothing that may be secret.
    pub(crate) fn check(
        &self,
        route: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), InferError> {
        let Some(administrator) = &self.administrator else {
            return Ok(());
        };
        let access = Access::of(route);
        if access == Access::Anybody {
            return Ok(());
        }
        let came = match Credentials::read(headers) {
            Ok(Credentials::Basic(pair)) if administrator.is(&pair) => return Ok(()),
            Ok(Credentials::Basic(_)) => "a pair that is not it",
            Ok(Credentials::Bearer(_)) if access == Access::Administrator => {
                "a Bearer token, and a service's opens its /run and /job only"
            }
            Ok(Credentials::Bearer(token)) if access == Access::Events => {
                if self.events.is(&token) {
                    return Ok(());
                }
                "a Bearer token that is not theirs"
            }
            Ok(Credentials::Bearer(token)) => {
                let own = service(route, path).and_then(|service| self.tokens.token(service));
                if own.is_some_and(|own| own.is(&token)) {
                    return Ok(());
                }
                "a Bearer token that is not this service's"
            }
            Err(came) => came,
        };
        let expected = match access {
            Access::Service => {
                "the administrator's name and password (Basic), or the service's token (Bearer)"
            }
            Access::Events => {
                "the administrator's name and password (Basic), or the token of events (Bearer), which \
                 `hearth minio-settings` prints"
            }
            Access::Administrator | Access::Anybody => {
                "the administrator's name and password (Basic)"
            }
        };
        let message = format!("expected {expected}, got {came}");
        Err(InferError::new(Code::Unauthenticated, message))
    }
}

// === impl Access ===

impl Access {
    /// Whom this route answers, if credentials are asked for: the administrator, unless it says else.
    fn of(route: &str) -> Self {
        match route {
            HEALTH | LIVE | OPENAPI | READY => Self::Anybody,
            RUN | JOB => Self::Service,
            EVENTS => Self::Events,
            method if OPEN_METHODS.contains(&method) => Self::Anybody,
            _ => Self::Administrator,
        }
    }
}

// === impl Credentials ===

impl Credentials {
    /// Reads the one header that has to be there.
    ///
    /// # Errors
    /// What came in its place.
    fn read(headers: &HeaderMap) -> Result<Self, &'static str> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().ok_or("no `Authorization`")?;
        if values.next().is_some() {
            return Err("several `Authorization` headers");
        }
        let malformed =
            "an `Authorization` that is neither Basic with base64 of `name:password` nor Bearer";
        // RFC 9110 § 11.1: the scheme in any case, spaces, and what it takes.
        let value = value.to_str().map_err(|_| malformed)?;
        let (scheme, rest) = value.split_once(' ').ok_or(malformed)?;
        let rest = rest.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = STANDARD.decode(rest).map_err(|_| malformed)?;
            Ok(Self::Basic(Zeroizing::new(pair)))
        } else if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            Ok(Self::Bearer(rest.to_owned().into()))
        } else {
            Err(malformed)
        }
    }
}

/// Returns the part of a path that stands where its route has `{name}`. It is not decoded: names of
/// services need no encoding, and what is encoded is the name of none.
fn service<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    let mut parts = route.split('/').zip(path.split('/'));
    parts.find_map(|(part, name)| (part == "{name}").then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use crate::routes::{METHODS, ROUTES};

    #[derive(Debug)]
    struct Services(BTreeMap<&'static str, String>);

    impl Tokens for Services {
        fn token(&self, service: &str) -> Option<Secret> {
            self.0.get(service).cloned().map(Secret::from)
        }
    }

    fn auth() -> Auth {
        let password = Secret::from("secret".to_owned());
        let administrator = Administrator::new("flame", &password).unwrap();
        let tokens = [("one", "1".repeat(64)), ("two", "2".repeat(64))];
        Auth::new(
            Some(administrator),
            Arc::new(Services(tokens.into())),
            "events".to_owned().into(),
        )
    }

    fn is_let_in(route: &str, path: &str, authorization: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        match auth().check(route, path, &headers) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.code, Code::Unauthenticated);
                assert!(!error.message.contains("111"), "{}", error.message);
                false
            }
        }
    }

    #[test]
    fn a_token_opens_its_own_service_alone() {
        let token = format!("Bearer {}", "1".repeat(64));
        assert!(is_let_in(RUN, "/run/one", &token));
        assert!(is_let_in(
            RUN,
            "/run/one",
            &token.replace("Bearer", "bearer")
        ));
        for path in [
            "/run/two",
            "/run/three",
            "/run/",
            "/run/%6fne",
            "/run/ONE",
            "/",
        ] {
            assert!(!is_let_in(RUN, path, &token), "{path}");
        }
        for token in [
            "1".repeat(63),
            "1".repeat(65),
            "0".repeat(64),
            String::new(),
        ] {
            assert!(
                !is_let_in(RUN, "/run/one", &format!("Bearer {token}")),
                "{token}"
            );
        }
    }

    #[test]
    fn a_token_opens_nothing_else() {
        let token = format!("Bearer {}", "1".repeat(64));
        for route in ROUTES.into_iter().chain(METHODS) {
            let is_open = Access::of(route) == Access::Anybody;
            let expected = is_open || [RUN, JOB].contains(&route);
            let path = route.replace("{name}", "one").replace("{version}", "1");
            assert_eq!(is_let_in(route, &path, &token), expected, "{route}");
        }
        assert!(!is_let_in("none", "/run/one", &token));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::from("secret".to_owned());
        assert_eq!(format!("{secret:?}"), "(hidden)");
        assert!(!format!("{:?}", auth()).contains("flame"));
        let error = Administrator::new("flame", &Secret::from("x".repeat(2000))).unwrap_err();
        assert!(!error.to_string().contains("xxx"), "{error}");
    }
}
