//! What a Triton server answered, asked of Hearth: the files in `conformance` hold requests and the
//! answers that were captured, `differences.json` what is answered otherwise on purpose, and why.
//!
//! A pattern in JSON holds if the answer has what it has: objects may have more, since clients skip
//! the keys that they do not know. `"$string"`, `"$number"`: any; `{"$has": […]}`: a string with
//! these parts; `{"$repeat": [value, n]}`, in a request: a list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::clients;
use crate::hearth::{Answer, Hearth, Store, finish, sources};

/// The captured answers, in the order in which they are asked for: statistics before there are any.
const FILES: [&str; 4] = [
    "server.json",
    "models.json",
    "repository.json",
    "infer.json",
];
const MLP: &str = "engine: onnx\nbatch: { max: 32 }\n";

fn folder() -> PathBuf {
    sources().join("gateway/server/tests/it/conformance")
}

fn read(file: &str) -> Value {
    let path = folder().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn cases() -> Vec<Value> {
    let cases = FILES.into_iter().map(read);
    cases
        .flat_map(|file| file.as_array().unwrap().clone())
        .collect()
}

fn start() -> Hearth {
    Hearth::start(Store::new().with("mlp", MLP, "mlp"), &[])
}

/// Writes `{"$repeat": [value, n]}` out.
fn expanded(value: &Value) -> Value {
    match value {
        Value::Object(object) => match object.get("$repeat") {
            Some(repeat) => {
                let n = repeat[1].as_u64().unwrap() as usize;
                Value::Array(vec![repeat[0].clone(); n])
            }
            None => Value::Object(
                object
                    .iter()
                    .map(|(key, value)| (key.clone(), expanded(value)))
                    .collect(),
            ),
        },
        Value::Array(array) => array.iter().map(expanded).collect(),
        other => other.clone(),
    }
}

fn ask(hearth: &Hearth, case: &Value) -> Answer {
    let (method, path) = case["request"].as_str().unwrap().split_once(' ').unwrap();
    let mut request = hearth.request(method, path);
    for (name, value) in case["headers"].as_object().into_iter().flatten() {
        request = request.header(name, value.as_str().unwrap());
    }
    let mut body = match case.get("json") {
        Some(json) => expanded(json).to_string().into_bytes(),
        None => case["text"].as_str().unwrap_or_default().into(),
    };
    if let Some(floats) = case.get("floats") {
        request = request.header("inference-header-content-length", body.len());
        let floats = expanded(floats);
        let floats = floats.as_array().unwrap().iter();
        body.extend(floats.flat_map(|float| (float.as_f64().unwrap() as f32).to_le_bytes()));
    }
    match method {
        "GET" => hearth.send(request, ()),
        _ => hearth.send(request, &body[..]),
    }
}

/// Adds to `wrong` where a value is not as the pattern.
fn compare(at: &str, pattern: &Value, value: &Value, wrong: &mut Vec<String>) {
    let is_alike = match (pattern, value) {
        (Value::String(any), value) if any == "$string" => value.is_string(),
        (Value::String(any), value) if any == "$number" => value.is_number(),
        (Value::Object(has), Value::String(text)) if has.contains_key("$has") => {
            let parts = has["$has"].as_array().unwrap().iter();
            parts
                .map(|part| part.as_str().unwrap())
                .all(|part| text.contains(part))
        }
        (Value::Object(pattern), Value::Object(value)) => {
            for (key, pattern) in pattern {
                let value = value.get(key).unwrap_or(&Value::Null);
                compare(&format!("{at}.{key}"), pattern, value, wrong);
            }
            true
        }
        (Value::Array(pattern), Value::Array(value)) if pattern.len() == value.len() => {
            for (index, (pattern, value)) in pattern.iter().zip(value).enumerate() {
                compare(&format!("{at}[{index}]"), pattern, value, wrong);
            }
            true
        }
        (Value::Number(pattern), Value::Number(value)) => pattern.as_f64() == value.as_f64(),
        (pattern, value) => pattern == value,
    };
    if !is_alike {
        wrong.push(format!("{at}: expected {pattern}, got {value}"));
    }
}

/// Returns where an answer is not as expected.
fn mismatches(expected: &Value, answer: &Answer) -> Vec<String> {
    let mut wrong = Vec::new();
    let status = Value::from(answer.status.as_u16());
    compare("status", &expected["status"], &status, &mut wrong);
    for (name, pattern) in expected["headers"].as_object().into_iter().flatten() {
        let value = answer.header(name).map_or(Value::Null, Value::from);
        compare(name, pattern, &value, &mut wrong);
    }
    if let Some(pattern) = expected.get("json") {
        let length = answer.header("inference-header-content-length");
        let length = length.map_or(answer.body.len(), |length| length.parse().unwrap());
        match serde_json::from_slice(&answer.body[..length]) {
            Ok(json) => compare("", pattern, &json, &mut wrong),
            Err(error) => wrong.push(format!("no JSON: {error}")),
        }
    }
    if let Some(text) = expected.get("text") {
        compare("text", text, &Value::from(answer.text()), &mut wrong);
    }
    for part in expected["has"].as_array().into_iter().flatten() {
        if !answer.text().contains(part.as_str().unwrap()) {
            wrong.push(format!("{part} is not in it"));
        }
    }
    wrong
}

/// Returns what is answered on purpose: over what was captured, or, with another status, instead of it.
fn answered_instead(captured: &Value, difference: &Map<String, Value>) -> Value {
    let mut answer = overlaid(captured, difference);
    if let (true, Some(json)) = (difference.contains_key("status"), difference.get("json")) {
        answer["json"] = json.clone();
    }
    answer
}

fn overlaid(captured: &Value, difference: &Map<String, Value>) -> Value {
    let mut answer = captured.clone();
    for (key, value) in difference {
        answer[key] = match (&answer[key], value) {
            // Of JSON each key for itself; lists and texts as a whole.
            (Value::Object(captured), Value::Object(own)) if !own.contains_key("$has") => {
                let captured = Value::Object(captured.clone());
                overlaid(&captured, own)
            }
            _ => value.clone(),
        };
    }
    answer
}

#[test]
fn what_triton_answered_is_answered_apart_from_what_is_meant_to_differ() {
    let hearth = start();
    let differences = read("differences.json");
    let differences = differences.as_object().unwrap();
    let mut failures = Vec::new();
    let mut seen = BTreeSet::new();
    for case in cases() {
        let name = case["case"].as_str().unwrap();
        assert!(seen.insert(name.to_owned()), "{name} is there twice");
        let answer = ask(&hearth, &case);
        let captured = mismatches(&case["answer"], &answer);
        match differences.get(name) {
            None if captured.is_empty() => {}
            None => failures.push(format!("{name}: {captured:#?}\n{}", shown(&answer))),
            Some(_) if captured.is_empty() => {
                failures.push(format!("{name}: does not differ any more"));
            }
            Some(difference) => {
                let own =
                    answered_instead(&case["answer"], difference["answer"].as_object().unwrap());
                let wrong = mismatches(&own, &answer);
                if !wrong.is_empty() {
                    failures.push(format!("{name}: {wrong:#?}\n{}", shown(&answer)));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    let differing: BTreeSet<_> = differences.keys().cloned().collect();
    assert!(differing.is_subset(&seen), "there are no such cases");
    hearth.stop();
}

fn shown(answer: &Answer) -> String {
    format!(
        "{} {:?}",
        answer.status,
        String::from_utf8_lossy(&answer.body)
    )
}

#[test]
fn the_table_of_differences_is_the_one_that_is_tested() {
    let table = fs::read_to_string(folder().join("README.md")).unwrap();
    let rows = table.lines().filter_map(|line| {
        let (case, why) = line.strip_prefix("| ")?.split_once(" | ")?;
        Some((case.to_owned(), why.strip_suffix(" |")?.to_owned()))
    });
    let rows: BTreeMap<_, _> = rows.filter(|(case, _)| case != "case").collect();
    let differences = read("differences.json");
    let told = differences.as_object().unwrap().iter();
    let told = told
        .map(|(case, difference)| (case.clone(), difference["why"].as_str().unwrap().to_owned()));
    assert_eq!(rows, told.collect());
}

/// The same cases with Triton's own clients, as far as these can ask for them.
#[test]
fn triton_s_clients_get_the_same_answers_over_http_and_grpc() {
    let Some(mut python) = clients::python("tritonclient") else {
        return;
    };
    let hearth = start();
    python
        .arg(folder().join("clients.py"))
        .arg(hearth.address().to_string())
        .arg(hearth.grpc_address().to_string());
    let output = finish(&mut python);
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    hearth.stop();
}
