//! What is done to any bytes: by libFuzzer (`fuzz_targets`), and by the tests of the crate with the
//! seeds and with bytes of their own.
//!
//! Beyond that nothing panics: room is asked for all that JSON becomes, what is checked has the
//! length of its shape, and what is read says the same as what `serde_json` reads.

use bytes::Bytes;
use model_store::{DataType, ModelSpec, TensorSpec};
use prost::Message as _;
use serde_json::Value;
use workers_protocol::codec::{EncodedAnswer, Given, InferRequest, Place};
use workers_protocol::oip::{ModelInferRequest, ModelStreamInferResponse};
use workers_protocol::wire::{Command, Event};
use workers_protocol::{CheckedInputs, Code, InferError, Target, Tensor};

/// Room for what a request may become.
const ROOM: u64 = 64 << 20;

/// A body that is JSON.
pub(crate) fn json(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let Some(request) = parse(&body, None) else {
        return;
    };
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        for (input, json) in request.inputs.iter().zip(elements(&value["inputs"])) {
            if json["data"].is_array() {
                compare(input, &json["data"]);
            }
        }
    }
    for (index, input) in request.inputs.iter().enumerate() {
        // What lies in shared memory need not be what JSON can say.
        if request
            .shared_inputs
            .iter()
            .all(|(shared, _)| *shared != index)
        {
            there_and_back(input);
        }
    }
}

/// A body that is JSON up to its first zero, and binary tensors after it.
pub(crate) fn binary(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let json = parts.next().unwrap_or_default();
    let body = Bytes::from([json, parts.next().unwrap_or_default()].concat());
    parse(&body, Some(json.len()));
    // Where the header says anything else.
    parse(&body, Some(usize::from(data.first().copied().unwrap_or(0))));
}

/// Messages of gRPC: from callers, and between the processes, both ways.
pub(crate) fn messages(data: &[u8]) {
    if let Ok(message) = ModelInferRequest::decode(data) {
        let (mut asked, spec) = (0, spec());
        let request = InferRequest::from_message(message.clone(), target(&spec), room(&mut asked));
        if let Ok(request) = request {
            check(&request, &spec);
        }
        let _ = Command::from_message(message);
    }
    if let Ok(message) = ModelStreamInferResponse::decode(data) {
        let _ = Event::from_message(message);
    }
}

fn parse(body: &Bytes, json_bytes: Option<usize>) -> Option<InferRequest> {
    let (mut asked, spec) = (0, spec());
    let request = InferRequest::parse(body, json_bytes, target(&spec), room(&mut asked)).ok()?;
    let is_own = |input: &&Tensor| !body.as_ptr_range().contains(&input.data.as_ptr());
    let own: usize = request
        .inputs
        .iter()
        .filter(is_own)
        .map(|input| input.data.len())
        .sum();
    assert!(
        own as u64 <= asked,
        "{own} bytes were taken, {asked} asked for"
    );
    check(&request, &spec);
    Some(request)
}

fn check(request: &InferRequest, spec: &ModelSpec) {
    if let Ok(checked) = CheckedInputs::check(target(spec), request.inputs.clone()) {
        for input in &checked.inputs {
            input.check_length().expect("its length was checked");
        }
    }
}

/// What is encoded is read as what it was.
fn there_and_back(tensor: &Tensor) {
    let is_exact = !matches!(tensor.datatype, DataType::Fp32 | DataType::Fp64);
    if !is_exact || tensor.check_length().is_err() {
        return;
    }
    let given = Given {
        tensor: std::borrow::Cow::Borrowed(tensor),
        place: Place::Json,
    };
    let answer = EncodedAnswer::encode(None, "m", "1", &[given]).expect("it came from JSON");
    let mut value: Value = serde_json::from_slice(&answer.body).expect("it is JSON");
    let inputs = value["outputs"].take();
    let again = serde_json::json!({"inputs": inputs, "outputs": [{"name": "y"}]}).to_string();
    let again = parse(&Bytes::from(again), None).expect("it is a request");
    assert_eq!(again.inputs[0], *tensor);
}

/// Compares elements with what another parser reads.
fn compare(tensor: &Tensor, data: &Value) {
    let mut expected = Vec::new();
    flatten(data, &mut expected);
    let mut bytes = Vec::new();
    for value in expected {
        match tensor.datatype {
            DataType::Fp64 => bytes.extend(value.as_f64().expect("a number").to_le_bytes()),
            DataType::Int64 => bytes.extend(integer(value).to_le_bytes()),
            DataType::Int32 => bytes.extend((integer(value) as i32).to_le_bytes()),
            DataType::Int8 => bytes.extend((integer(value) as i8).to_le_bytes()),
            DataType::Uint8 => bytes.extend((integer(value) as u8).to_le_bytes()),
            DataType::Bytes => {
                let text = value.as_str().expect("a string");
                bytes.extend((text.len() as u32).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            _ => return,
        }
    }
    assert_eq!(bytes, tensor.data);
}

/// `-0` is a number with a sign there.
fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| {
        assert_eq!(value.as_f64(), Some(0.0), "{value} is no integer");
        0
    })
}

fn flatten<'a>(data: &'a Value, into: &mut Vec<&'a Value>) {
    match data {
        Value::Array(elements) => elements.iter().for_each(|element| flatten(element, into)),
        element => into.push(element),
    }
}

fn elements(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn room(asked: &mut u64) -> impl FnMut(u64) -> Result<(), InferError> {
    |bytes| {
        *asked = asked.saturating_add(bytes);
        match *asked <= ROOM {
            true => Ok(()),
            false => Err(InferError::new(Code::Overloaded, "no room")),
        }
    }
}

fn target(spec: &ModelSpec) -> Target<'_> {
    Target { model: "m", spec }
}

/// A model with inputs of several datatypes and batch axes.
fn spec() -> ModelSpec {
    let tensor = |name: &str, datatype, shape: &[i64], batch_axis| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        batch_axis,
    };
    ModelSpec {
        platform: "onnxruntime_onnx".to_owned(),
        task: None,
        inputs: vec![tensor("x", DataType::Fp32, &[-1, -1], Some(0))],
        outputs: vec![
            tensor("y", DataType::Fp32, &[-1, 3], Some(0)),
            tensor("z", DataType::Int8, &[2, -1], Some(1)),
        ],
        max_batch: 8,
        instances: 1,
        notes: Vec::new(),
    }
}
