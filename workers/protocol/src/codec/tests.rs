use model_store::{ModelSpec, TensorSpec};
use proptest::prelude::*;

use super::*;

/// A model of one input and an output of each datatype, named by it, and of four more of FP32.
fn spec() -> ModelSpec {
    let tensor = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        batch_axis: (shape[0] < 0).then_some(0),
    };
    let mut outputs: Vec<_> = DataType::ALL
        .iter()
        .map(|&datatype| tensor(datatype.as_str(), datatype, &[-1, 3]))
        .collect();
    outputs.extend(["a", "b", "c"].map(|name| tensor(name, DataType::Fp32, &[-1])));
    outputs.push(tensor("whole", DataType::Fp32, &[3]));
    ModelSpec {
        platform: "onnxruntime_onnx".to_owned(),
        task: None,
        inputs: vec![tensor("x", DataType::Fp32, &[-1, 2])],
        outputs,
        max_batch: 4,
        instances: 1,
        notes: Vec::new(),
    }
}

fn parse_with(body: &Bytes, json_bytes: Option<usize>) -> Result<InferRequest, InferError> {
    let spec = spec();
    let target = Target {
        model: "m",
        spec: &spec,
    };
    InferRequest::parse(body, json_bytes, target, |_| Ok(()))
}

/// Asks for `a`, since not every output has a JSON form.
fn parse(json: &str) -> Result<InferRequest, InferError> {
    let named = json.replacen('{', r#"{"outputs":[{"name":"a"}],"#, 1);
    let json = if json.contains("outputs") {
        json
    } else {
        &named
    };
    parse_with(&Bytes::copy_from_slice(json.as_bytes()), None)
}

fn refusal(json: &str) -> String {
    parse(json).unwrap_err().message
}

fn fp32(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn tensor(name: &str, datatype: DataType, shape: &[i64], data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        data: data.into(),
    }
}

fn floats(name: &str, values: &[f32]) -> Tensor {
    tensor(name, DataType::Fp32, &[values.len() as i64], fp32(values))
}

/// Encodes what a request asks for, with labels for the first two classes.
fn answer(request: &InferRequest, outputs: &[Tensor]) -> Result<EncodedAnswer, InferError> {
    let spec = spec();
    let target = Target {
        model: "m",
        spec: &spec,
    };
    let labels = ["cat".to_owned(), "dog".to_owned()];
    let given = request.choose(target, outputs, &labels)?;
    EncodedAnswer::encode(request.id.as_deref(), "m", "1", &given)
}

/// Returns a request of the input `x` with this shape, datatype and data.
fn of_x(shape: &str, datatype: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#
    )
}

#[test]
fn nested_and_flat_data_are_the_same_tensor() {
    let flat = parse(&of_x("[2,2]", "FP32", "[1,2.5,-3,4e0]"));
    let nested = parse(
        r#"{"inputs":[{"data":[[1, 2.5],
            [-3 ,4e0]],"datatype":"FP32","shape":[2,2],"name":"x"}]}"#,
    );
    assert_eq!(flat, nested);
    assert_eq!(flat.unwrap().inputs[0].data, fp32(&[1.0, 2.5, -3.0, 4.0]));
}

#[test]
fn data_are_as_many_as_the_shape_has_and_nested_like_it_or_not_at_all() {
    for (shape, data) in [
        ("[2,2]", "[[1,2],[3,4]]"),
        ("[1,2,2]", "[[[1,2],[3,4]]]"),
        ("[4]", " [ 1 , 2 , 3 , 4 ] "),
        ("[]", "[1]"),
        ("[]", "1"),
        ("[0]", "[]"),
        ("[2,0]", "[[],[]]"),
        ("[2,0,3]", "[[],[]]"),
        ("[0,2]", "[]"),
    ] {
        parse(&of_x(shape, "INT8", data)).unwrap_or_else(|error| panic!("{shape} {data} {error}"));
    }
    for (shape, data) in [
        ("[2,2]", "[1,2,3]"),
        ("[2,2]", "[1,2,3,4,5]"),
        ("[2,2]", "[[1,2],[3]]"),
        ("[2,2]", "[[1,2,3],[4]]"),
        ("[2,2]", "[[1,2]]"),
        ("[2,2]", "[[1,2],[3,4],[]]"),
        ("[2,2]", "[[1,2],3]"),
        ("[2,2]", "[[1,2],[[3],4]]"),
        ("[2,2]", "[1,[2],3,4]"),
        ("[1,2,2]", "[[1,2],[3,4]]"),
        ("[2]", "[[1,2]]"),
        ("[2]", "1"),
        ("[2,0]", "[[],[],[]]"),
        ("[0]", "[1]"),
        ("[0]", "[[]]"),
    ] {
        let message = refusal(&of_x(shape, "INT8", data));
        let begin = "Unable to parse 'data': Shape does not match true shape of 'data' field: \
                     input `x` has shape";
        assert!(message.starts_with(begin), "{shape} {data}: {message}");
    }
}

#[test]
fn data_that_are_no_json_are_refused() {
    for data in [
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,,2]",
        "[1,2",
        "[1,2}",
        "[1,2]]",
        "[01,2]",
        "[1.,2]",
        "[.5,2]",
        "[+1,2]",
        "[1e,2]",
        "[-,2]",
        "[1,2x]",
        "[1,NaN]",
        "[1,Infinity]",
        "[0x1,2]",
        "[\u{a0}1,2]",
    ] {
        let error = parse(&of_x("[2]", "FP64", data)).unwrap_err();
        assert_eq!(error.code, crate::Code::InvalidArgument, "{data}");
    }
    for data in [
        "[\"a\", \"b]",
        r#"["a\x", "b"]"#,
        "[\"a\nb\", \"c\"]",
        "[\"a\"\"b\"]",
        r#"["a", "b\"#,
        "[\"a\", 'b']",
    ] {
        let error = parse(&of_x("[2]", "BYTES", data)).unwrap_err();
        assert_eq!(error.code, crate::Code::InvalidArgument, "{data}");
    }
    let mut not_utf8 = of_x("[1]", "BYTES", "[\"?\"]").into_bytes();
    let at = not_utf8.iter().position(|&byte| byte == b'?').unwrap();
    not_utf8[at] = 0xff;
    let error = parse_with(&not_utf8.into(), None).unwrap_err();
    assert!(error.message.contains("not UTF-8"), "{error}");
}

#[test]
fn lists_are_found_whatever_is_beside_them() {
    let request = parse(concat!(
        r#"{"id":"\"data\":[1]","parameters":{"data":[7,[8]],"d":"data"},"#,
        r#""inputs":[{"name":"data","shape":[1],"datatype":"INT8","data" : [ 5 ]},"#,
        r#"{"d\u0061ta":[6],"name":"x","shape":[1],"datatype":"INT8"},"#,
        r#"{"data":["]\"[","\\"],"name":"s","shape":[2],"datatype":"BYTES"}]}"#
    ))
    .unwrap();
    let data: Vec<_> = request.inputs.iter().map(|input| &input.data[..]).collect();
    assert_eq!(data, [&[5][..], &[6], b"\x03\0\0\0]\"[\x01\0\0\0\\"]);
    assert_eq!(request.id.as_deref(), Some("\"data\":[1]"));
}

#[test]
fn binary_tensors_are_taken_in_the_order_of_the_inputs() {
    let json = concat!(
        r#"{"parameters":{"binary_data_output":true},"#,
        r#""inputs":[{"name":"a","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}},"#,
        r#"{"name":"j","shape":[1],"datatype":"UINT8","data":[7]},"#,
        r#"{"name":"b","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}}]}"#
    );
    let mut body = json.as_bytes().to_vec();
    body.extend(fp32(&[0.5]));
    body.extend([1, 2]);
    let request = parse_with(&body.into(), Some(json.len())).unwrap();
    assert_eq!(request.inputs[0].data, fp32(&[0.5]));
    assert_eq!(&request.inputs[1].data[..], [7]);
    assert_eq!(&request.inputs[2].data[..], [1, 2]);
}

#[test]
fn refusals_name_the_field() {
    let with = |input: &str| format!(r#"{{"inputs":[{{"name":"x","shape":[1],{input}}}]}}"#);
    let asking = |output: &str| format!(r#"{{"inputs":[],"outputs":[{output}]}}"#);
    let saying = |parameters: &str| format!(r#"{{"inputs":[],"parameters":{parameters}}}"#);
    let binary = |parameters: &str| {
        with(&format!(
            r#""datatype":"INT8","parameters":{{{parameters}}}"#
        ))
    };
    for (json, expected) in [
        ("{".to_owned(), "failed to parse the request JSON buffer: "),
        (
            "[]".to_owned(),
            "Unable to parse '.': invalid type: sequence, expected an object",
        ),
        (
            r#"{"inputs":[["x",[1],"INT8",{},[1]]]}"#.to_owned(),
            "Unable to parse 'inputs[0]': invalid type: sequence, expected an object",
        ),
        (
            r#"{"inputs":3}"#.to_owned(),
            "Unable to parse 'inputs': invalid type: integer `3`",
        ),
        (
            r#"{"outputs":[]}"#.to_owned(),
            "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'",
        ),
        (r#"{"id":7,"inputs":[]}"#.to_owned(), "'id': invalid type"),
        (
            r#"{"input":[]}"#.to_owned(),
            "'input': unknown field `input`",
        ),
        (saying("[]"), "'parameters': invalid type"),
        (
            saying(r#"{"timeout":{"a":[]}}"#),
            "`timeout`: expected a whole number that is not negative, got an object",
        ),
        (
            saying(r#"{"binary_data_output":null}"#),
            "`binary_data_output`: expected true or false, got null",
        ),
        (saying(r#"{"timeout":-1}"#), "`timeout`: expected a whole"),
        (
            saying(r#"{"timeout":"9"}"#),
            r#"`timeout`: expected a whole number that is not negative, got "9""#,
        ),
        (
            saying(r#"{"priority":1.5}"#),
            "`priority`: expected a whole",
        ),
        (
            saying(r#"{"binary_data_output":1}"#),
            "`binary_data_output`: expected true or false, got 1",
        ),
        (
            saying(r#"{"sequence_id":3}"#),
            "`sequence_id`: expected none, got 3",
        ),
        (
            saying(r#"{"sequence_id":"a"}"#),
            r#"`sequence_id`: expected none, got "a""#,
        ),
        (
            saying(r#"{"sequence_id":true}"#),
            "`sequence_id`: expected a whole number or a string",
        ),
        (
            saying(r#"{"sequence_start":1}"#),
            "`sequence_start`: expected true or false",
        ),
        (
            saying(r#"{"triton_x":1}"#),
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
        ),
        (
            r#"{"inputs":[{"name":1}]}"#.to_owned(),
            "'inputs[0].name': invalid type",
        ),
        (
            r#"{"inputs":[{"name":"x"}]}"#.to_owned(),
            "'inputs[0]': missing field `shape`",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1.5]}]}"#.to_owned(),
            "'inputs[0].shape[0]': invalid type",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":["1"]}]}"#.to_owned(),
            "'inputs[0].shape[0]': invalid type",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":1}]}"#.to_owned(),
            "'inputs[0].shape': invalid type",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[18446744073709551615]}]}"#.to_owned(),
            "'inputs[0].shape[0]': invalid value",
        ),
        (
            with(r#""dtype":"INT8""#),
            "'inputs[0].dtype': unknown field `dtype`",
        ),
        (
            with(r#""datatype":1"#),
            "'inputs[0].datatype': invalid type",
        ),
        (
            with(r#""datatype":"F32","data":[1]"#),
            "invalid datatype for input x: `datatype` \"F32\"",
        ),
        (
            of_x("[1]", "FP16", "[1]"),
            "input `x`: FP16 has no JSON form",
        ),
        (
            of_x("[1]", "BF16", "[1]"),
            "input `x`: BF16 has no JSON form",
        ),
        (of_x("[1]", "UINT8", "[256]"), "input `x`: 256 is no UINT8"),
        (of_x("[1]", "UINT64", "[-1]"), "input `x`: -1 is no UINT64"),
        (
            of_x("[1]", "INT64", "[9223372036854775808]"),
            "9223372036854775808 is no INT64",
        ),
        (of_x("[1]", "INT8", "[1.0]"), "input `x`: 1.0 is no INT8"),
        (of_x("[1]", "FP32", "[1e39]"), "input `x`: 1e39 is no FP32"),
        (
            of_x("[1]", "FP64", "[1e400]"),
            "input `x`: 1e400 is no FP64",
        ),
        (
            of_x("[1]", "FP32", "[null]"),
            "input `x`: expected FP32 elements, got null",
        ),
        (
            of_x("[1]", "FP32", "[true]"),
            "input `x`: expected FP32 elements, got true",
        ),
        (
            of_x("[1]", "INT8", r#"["a"]"#),
            "input `x`: expected INT8 elements, got a string",
        ),
        (of_x("[1]", "INT8", r#"{"a":1}"#), "got an object"),
        (
            of_x("[1]", "BYTES", "[1]"),
            "input `x`: expected BYTES elements, got the number 1",
        ),
        (
            of_x("[1]", "BOOL", "[2]"),
            "input `x`: expected BOOL elements, got the number 2",
        ),
        (
            of_x("[1]", "BYTES", r#"["\ud800"]"#),
            "input `x`: a string can't be read",
        ),
        (
            of_x("[-1]", "INT8", "[1]"),
            "input `x`: shape [-1] has a negative dimension",
        ),
        (
            of_x("[9223372036854775807,9]", "INT8", "[1]"),
            "more elements",
        ),
        (
            with(r#""datatype":"INT8""#),
            "input `x`: expected one of `data` and",
        ),
        (
            with(r#""datatype":"INT8","data":[1],"parameters":{"binary_data_size":1}"#),
            "input `x`: expected one of `data` and",
        ),
        (
            binary(r#""binary_data_size":1"#),
            "unexpected size for input 'x', expecting 1 additional bytes for model 'm'",
        ),
        (
            binary(r#""binary_data_size":-1"#),
            "input `x`: `binary_data_size`: expected a whole",
        ),
        (
            binary(r#""binary_data_size":"1""#),
            "input `x`: `binary_data_size`: expected a whole",
        ),
        (
            binary(r#""shared_memory_region":"r""#),
            "input `x`: `shared_memory_byte_size`: expected beside",
        ),
        (
            binary(r#""shared_memory_byte_size":1"#),
            "input `x`: `shared_memory_region`: expected beside",
        ),
        (
            binary(r#""shared_memory_region":1"#),
            "input `x`: `shared_memory_region`: expected a string",
        ),
        (
            binary(
                r#""shared_memory_region":"r","shared_memory_offset":-1,"shared_memory_byte_size":1"#,
            ),
            "input `x`: `shared_memory_offset`: expected a whole",
        ),
        (
            asking(r#"{"name":"z"}"#),
            "unexpected inference output 'z' for model 'm'",
        ),
        (
            asking(r#"{"names":"a"}"#),
            "'outputs[0].names': unknown field `names`",
        ),
        (
            asking(r#"{"name":"FP16"}"#),
            "output `FP16`: FP16 has no JSON form",
        ),
        (
            asking(r#"{"name":"a","parameters":{"binary_data":"yes"}}"#),
            "output `a`: `binary_data`: expected true or false",
        ),
        (
            asking(r#"{"name":"a","parameters":{"classification":-2}}"#),
            "output `a`: `classification`: expected a whole",
        ),
        (
            asking(r#"{"name":"BYTES","parameters":{"classification":2}}"#),
            "output `BYTES`: `classification`: expected an output of numbers",
        ),
        (
            asking(
                r#"{"name":"a","parameters":{"classification":2,"shared_memory_region":"r","shared_memory_byte_size":8}}"#,
            ),
            "output `a`: `classification` and `shared_memory_region`: expected one",
        ),
    ] {
        let error = parse(&json).unwrap_err();
        assert!(error.message.contains(expected), "{json}\n{error}");
        assert_eq!(error.code, crate::Code::InvalidArgument);
        assert!(error.message.len() < 500, "{error}");
    }
}

#[test]
fn what_clients_add_without_need_is_ignored() {
    let request = parse(concat!(
        r#"{"id":"","model_name":"x","model_version":null,"#,
        r#""parameters":{"sequence_id":0,"sequence_start":false,"priority":1,"own":{"thing":[]}},"#,
        r#""inputs":[]}"#
    ));
    assert_eq!(request.unwrap().id, None);
}

#[test]
fn room_is_asked_for_before_it_is_taken_and_no_element_beyond_the_shape_is_read() {
    let json = of_x("[2]", "FP64", "[1,2,3]");
    let body = Bytes::from(json);
    let spec = spec();
    let target = Target {
        model: "m",
        spec: &spec,
    };
    let mut asked = 0;
    let error = InferRequest::parse(&body, None, target, |bytes| {
        asked += bytes;
        Ok(())
    });
    let message = error.unwrap_err().message;
    assert!(
        message.ends_with("expected a list of 2, got more"),
        "{message}"
    );
    assert_eq!(asked, 16);
    let full = InferError::new(crate::Code::Overloaded, "no room");
    assert_eq!(
        InferRequest::parse(&body, None, target, |_| Err(full.clone())),
        Err(full)
    );
}

#[test]
fn an_output_is_given_once_and_names_are_bounded() {
    let twice = r#"{"inputs":[],"outputs":[{"name":"a"},{"name":"a"}]}"#;
    assert_eq!(refusal(twice), "output `a` is asked for twice");
    let long = "x".repeat(1025);
    assert!(refusal(&format!(r#"{{"id":"{long}","inputs":[]}}"#)).contains("at most 1024 bytes"));
}

#[test]
fn lists_are_bounded_while_they_are_read() {
    let shape = format!("[{}]", vec!["1"; 33].join(","));
    assert!(refusal(&of_x(&shape, "INT8", "[1]")).contains("a list of at most 32"));
    let input = r#"{"name":"x","shape":[1],"datatype":"INT8","data":[1]}"#;
    let inputs = vec![input; 257].join(",");
    assert!(refusal(&format!(r#"{{"inputs":[{inputs}]}}"#)).contains("a list of at most 256"));
    let parameters: Vec<_> = (0..257).map(|at| format!(r#""{at}":1"#)).collect();
    let json = format!(
        r#"{{"inputs":[],"parameters":{{{}}}}}"#,
        parameters.join(",")
    );
    assert!(refusal(&json).contains("an object of at most 256"));
}

#[test]
fn a_header_length_beyond_the_body_is_refused() {
    let error = parse_with(&Bytes::from_static(b"{}"), Some(99_999)).unwrap_err();
    assert_eq!(
        error.message,
        "inference header size should be in range (0, 2), got: 99999"
    );
}

#[test]
fn bytes_after_the_last_tensor_are_refused() {
    let json = r#"{"inputs":[]}"#;
    let error = parse_with(&Bytes::from(format!("{json}xx")), Some(json.len())).unwrap_err();
    let begin = "unexpected additional input data for model 'm': 2 bytes follow";
    assert!(error.message.starts_with(begin), "{error}");
}

#[test]
fn a_raw_request_is_the_one_input_of_one_item() {
    let raw = |datatype, shape: &[i64], body: &'static [u8]| {
        let mut spec = spec();
        spec.inputs[0].datatype = datatype;
        spec.inputs[0].shape = shape.to_vec();
        let target = Target {
            model: "m",
            spec: &spec,
        };
        InferRequest::parse(&Bytes::from_static(body), Some(0), target, |_| Ok(()))
    };
    let given = |request: Result<InferRequest, InferError>| {
        let input = request.unwrap().inputs.remove(0);
        (input.shape, input.data)
    };
    let fixed = raw(DataType::Uint8, &[-1, 2], b"ab");
    assert!(fixed.as_ref().unwrap().is_binary_output);
    assert_eq!(given(fixed), (vec![1, 2], Bytes::from_static(b"ab")));
    // Its length is found wrong where that of every input is.
    assert_eq!(given(raw(DataType::Uint8, &[-1, 2], b"")).0, [1, 2]);
    let free = raw(DataType::Int16, &[-1, -1, 2], b"abcdefgh");
    assert_eq!(given(free).0, [1, 2, 2]);
    let text = raw(DataType::Bytes, &[-1, 1], b"abc");
    let bytes = Bytes::from_static(b"\x03\0\0\0abc");
    assert_eq!(given(text), (vec![1, 1], bytes));
    for unclear in [
        raw(DataType::Uint8, &[-1, -1, -1], b"ab"),
        raw(DataType::Uint8, &[-1, -1, 0], b"ab"),
        raw(DataType::Uint8, &[i64::MAX, i64::MAX], b"ab"),
        raw(DataType::Bytes, &[-1, 2], b"ab"),
    ] {
        let message = unclear.unwrap_err().message;
        assert!(message.contains("has to tell its shape"), "{message}");
    }
    let mut spec = spec();
    spec.inputs.clear();
    let target = Target {
        model: "m",
        spec: &spec,
    };
    let none = InferRequest::parse(&Bytes::new(), None, target, |_| Ok(()));
    let message = none.unwrap_err().message;
    assert!(message.contains("model 'm' takes 0"), "{message}");
}

#[test]
fn what_lies_in_shared_memory_is_named() {
    let request = parse(concat!(
        r#"{"inputs":[{"name":"j","shape":[1],"datatype":"UINT8","data":[7]},"#,
        r#"{"name":"x","shape":[2],"datatype":"INT8","parameters":"#,
        r#"{"shared_memory_region":"in","shared_memory_offset":4,"shared_memory_byte_size":2}}],"#,
        r#""outputs":[{"name":"a","parameters":"#,
        r#"{"shared_memory_region":"out","shared_memory_byte_size":8}},{"name":"b"}]}"#
    ))
    .unwrap();
    let range = |region: &str, offset, byte_size| SharedRange {
        region: region.to_owned(),
        offset,
        byte_size,
    };
    assert_eq!(request.shared_inputs, [(1, range("in", 4, 2))]);
    let outputs = [floats("a", &[1.0, 2.0]), floats("b", &[3.0])];
    let spec = spec();
    let target = Target {
        model: "m",
        spec: &spec,
    };
    let given = request.choose(target, &outputs, &[]).unwrap();
    assert_eq!(given[0].place, Place::Shared(&range("out", 0, 8)));
    let json = answer(&request, &outputs).unwrap();
    assert_eq!(json.json_bytes, None);
    let outputs = concat!(
        r#""outputs":[{"name":"a","datatype":"FP32","shape":[2]},"#,
        r#"{"name":"b","datatype":"FP32","shape":[1],"data":[3.0]}]}"#
    );
    let text = std::str::from_utf8(&json.body).unwrap();
    assert!(text.ends_with(outputs), "{text}");
}

#[test]
fn an_answer_has_what_was_asked_for_in_its_order() {
    let request = parse(
        r#"{"id":"7","inputs":[],"outputs":[{"name":"b","parameters":{"binary_data":true}},{"name":"a"}]}"#,
    )
    .unwrap();
    let outputs = [
        floats("a", &[0.1, f32::NAN]),
        floats("b", &[2.0]),
        floats("c", &[3.0]),
    ];
    let encoded = answer(&request, &outputs).unwrap();
    let json = concat!(
        r#"{"id":"7","model_name":"m","model_version":"1","outputs":["#,
        r#"{"name":"b","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},"#,
        r#"{"name":"a","datatype":"FP32","shape":[2],"data":[0.1,null]}]}"#
    );
    assert_eq!(encoded.json_bytes, Some(json.len()));
    assert_eq!(&encoded.body[..json.len()], json.as_bytes());
    assert_eq!(&encoded.body[json.len()..], fp32(&[2.0]));
}

#[test]
fn classes_are_the_greatest_of_each_item_with_their_labels() {
    let classes = |name: &str, n: u32, output: Tensor| {
        let request = parse(&format!(
            r#"{{"inputs":[],"outputs":[{{"name":"{name}","parameters":{{"classification":{n}}}}}]}}"#
        ));
        let encoded = answer(&request.unwrap(), &[output]).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&encoded.body).unwrap();
        json["outputs"][0].clone()
    };
    let values = [0.5, 53.432_88, -1.0, f32::NAN, 2.0, 2.0];
    let output = tensor("FP32", DataType::Fp32, &[2, 3], fp32(&values));
    assert_eq!(
        classes("FP32", 2, output.clone()),
        serde_json::json!({
            "name": "FP32",
            "datatype": "BYTES",
            "shape": [2, 2],
            "data": ["53.432880:1:dog", "0.500000:0:cat", "2.000000:1:dog", "2.000000:2"],
        })
    );
    let all = classes("FP32", 9, output);
    assert_eq!(all["shape"], serde_json::json!([2, 3]));
    assert_eq!(all["data"][5], "nan:0:cat");
    let whole = tensor("INT8", DataType::Int8, &[1, 3], vec![0xff, 5, 7]);
    let data = classes("INT8", 3, whole)["data"].clone();
    assert_eq!(data, serde_json::json!(["7:2", "5:1:dog", "-1:0:cat"]));
    let half = tensor(
        "FP16",
        DataType::Fp16,
        &[1, 3],
        vec![0, 0x3c, 0, 0, 0, 0xbc],
    );
    let data = classes("FP16", 1, half)["data"].clone();
    assert_eq!(data, serde_json::json!(["1.000000:0:cat"]));
    // What is no batch has one list.
    let whole = classes("whole", 1, floats("whole", &[1.0, 3.0, 2.0]));
    assert_eq!(whole["shape"], serde_json::json!([1]));
    assert_eq!(whole["data"], serde_json::json!(["3.000000:1:dog"]));
    let empty = tensor("FP32", DataType::Fp32, &[0, 3], Vec::new());
    assert_eq!(
        classes("FP32", 2, empty)["shape"],
        serde_json::json!([0, 0])
    );
}

#[test]
fn more_classes_than_anybody_reads_are_refused() {
    let classify = |items: i64, n: u32| {
        let request = parse(&format!(
            r#"{{"inputs":[],"outputs":[{{"name":"INT8","parameters":{{"classification":{n}}}}}]}}"#
        ));
        let output = tensor(
            "INT8",
            DataType::Int8,
            &[items, 3],
            vec![0; 3 * items as usize],
        );
        answer(&request.unwrap(), &[output]).map(|_| ())
    };
    assert_eq!(classify(400_000, 2), Ok(()));
    let error = classify(400_000, 3).unwrap_err();
    assert_eq!(error.code, crate::Code::TooLarge);
    assert!(
        error.message.contains("400000 items with 3 classes"),
        "{}",
        error.message
    );
}

proptest! {
    #[test]
    fn what_json_carries_comes_back(
        datatype in prop::sample::select(&DataType::ALL[..]),
        words in prop::collection::vec(any::<u64>(), 0..20),
    ) {
        prop_assume!(!matches!(datatype, DataType::Fp16 | DataType::Bf16));
        let data: Vec<u8> = match datatype {
            DataType::Bytes => words.iter().flat_map(|word| {
                let text = format!("{word:x}\"\\\u{1F525}");
                [(text.len() as u32).to_le_bytes().to_vec(), text.into_bytes()].concat()
            }).collect(),
            DataType::Bool => words.iter().map(|word| (word & 1) as u8).collect(),
            DataType::Fp32 => words.iter().flat_map(|&word| (word as f32).to_le_bytes()).collect(),
            DataType::Fp64 => words.iter().flat_map(|&word| (word as f64 / 3.0).to_le_bytes()).collect(),
            other => words.iter().flat_map(|word| word.to_le_bytes()[..other.element_bytes().unwrap()].to_vec()).collect(),
        };
        let sent = tensor(datatype.as_str(), datatype, &[words.len() as i64], data);
        let request = format!(r#"{{"inputs":[],"outputs":[{{"name":"{datatype}"}}]}}"#);
        let encoded = answer(&parse(&request).unwrap(), std::slice::from_ref(&sent)).unwrap();
        let text = std::str::from_utf8(&encoded.body).unwrap().replace("\"outputs\"", "\"inputs\"");
        prop_assert_eq!(&parse(&text).unwrap().inputs[0], &sent);
    }

    #[test]
    fn floats_are_those_that_are_nearest(text in "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?") {
        let single: f32 = text.parse().unwrap();
        prop_assume!(single.is_finite());
        let request = parse(&of_x("[1]", "FP32", &format!("[{text}]"))).unwrap();
        prop_assert_eq!(&request.inputs[0].data[..], single.to_le_bytes());
    }
}
