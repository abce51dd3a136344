//! The variables that a script has: those of its service, and those of the contract.

use std::collections::BTreeMap;

use crate::Event;

/// Most bytes of one variable with its name: Linux takes no longer string to start a program with
/// (`MAX_ARG_STRLEN` in `include/uapi/linux/binfmts.h`).
const MAX_VARIABLE_BYTES: usize = 128 << 10;

/// Most bytes of the variables that a caller's query becomes.
const MAX_QUERY_BYTES: usize = 128 << 10;

/// The variables of one run.
pub type Variables = BTreeMap<String, String>;

/// Why there can be no such variables; a sentence.
#[derive(Debug, thiserror::Error)]
#[error(
    "the query parameters have {0} bytes, expected at most {MAX_QUERY_BYTES}: they become variables"
)]
pub struct TooMany(usize);

/// Returns the variables of a run: nothing of the gateway's own environment is among them. What the
/// contract names goes over what the service says, and that over what a caller's query says.
/// Variables that hold paths are the supervisor's to set, which makes the folders.
///
/// `EVENT` is left out where Linux would not take it: the file has it.
///
/// # Errors
/// When the caller's query is too large.
pub fn variables(
    service: impl IntoIterator<Item = (String, String)>,
    contract: impl IntoIterator<Item = (&'static str, String)>,
    event: &Event,
    body: &[u8],
) -> Result<Variables, TooMany> {
    let mut variables = Variables::new();
    let mut bytes = 0;
    for (name, value) in &event.query {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        bytes += "CONT_VAR_=".len() + name.len() + value.len() + 1;
        if !name.bytes().all(is_plain) || value.contains('\0') {
            continue;
        }
        variables.insert(format!("CONT_VAR_{name}"), value.clone());
    }
    if bytes > MAX_QUERY_BYTES {
        return Err(TooMany(bytes));
    }
    variables.extend(service);
    let mut set = |name: &str, value: Option<&str>| {
        let fits = |value: &&str| {
            !value.contains('\0') && name.len() + value.len() + 2 <= MAX_VARIABLE_BYTES
        };
        match value.filter(fits) {
            Some(value) => variables.insert(name.to_owned(), value.to_owned()),
            None => variables.remove(name),
        };
    };
    for (name, value) in contract {
        set(name, Some(&value));
    }
    set("EVENT", std::str::from_utf8(body).ok());
    set("EVENT_TIME", event.time.as_deref());
    set("STORAGE_OBJECT_KEY", event.object_key());
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables_of(body: &[u8], service: &[(&str, &str)]) -> Variables {
        let event = Event::parse(body, &[]);
        let service = service.iter();
        let service = service.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let contract = [("OSCAR_SERVICE_NAME", "cow".to_owned())];
        variables(service, contract, &event, body).unwrap()
    }

    #[test]
    fn nothing_of_the_process_is_handed_on() {
        let variables = variables_of(b"hello", &[("A", "b")]);
        let names: Vec<_> = variables.keys().map(String::as_str).collect();
        assert_eq!(names, ["A", "EVENT", "OSCAR_SERVICE_NAME"]);
        assert_eq!(variables["EVENT"], "hello");
    }

    #[test]
    fn the_contract_goes_over_the_service_and_that_over_the_caller() {
        let body = br#"{"httpMethod":"GET","queryStringParameters":{"x":"caller","y":"caller","a b":"no"}}"#;
        let service = [
            ("CONT_VAR_x", "service"),
            ("OSCAR_SERVICE_NAME", "other"),
            ("PATH", "/bin"),
        ];
        let variables = variables_of(body, &service);
        assert_eq!(variables["CONT_VAR_x"], "service");
        assert_eq!(variables["CONT_VAR_y"], "caller");
        assert!(!variables.contains_key("CONT_VAR_a b"));
        assert_eq!(variables["OSCAR_SERVICE_NAME"], "cow");
        assert_eq!(variables["PATH"], "/bin");
    }

    #[test]
    fn what_linux_would_not_take_is_left_out() {
        let long = vec![b'x'; 10 << 20];
        assert!(!variables_of(&long, &[]).contains_key("EVENT"));
        assert!(!variables_of(b"a\0b", &[("EVENT", "stale")]).contains_key("EVENT"));
        assert!(!variables_of(b"\xff", &[]).contains_key("EVENT"));
    }

    #[test]
    fn a_query_of_ten_megabytes_is_refused() {
        let body = format!(
            r#"{{"httpMethod":"GET","queryStringParameters":{{"x":"{}"}}}}"#,
            "x".repeat(10 << 20)
        );
        let event = Event::parse(body.as_bytes(), &[]);
        let error = variables([], [], &event, b"").unwrap_err();
        assert!(
            error.to_string().contains("expected at most 131072"),
            "{error}"
        );
    }
}
