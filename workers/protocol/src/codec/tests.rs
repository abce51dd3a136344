use proptest::prelude::*;

use super::*;

fn parse(json: &str) -> Result<InferRequest, InferError> {
    InferRequest::parse(&Bytes::copy_from_slice(json.as_bytes()), None, |_| Ok(()))
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

#[test]
fn nested_and_flat_data_are_the_same_tensor() {
    let flat =
        parse(r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2.5,-3,4e0]}]}"#);
    let nested = parse(
        r#"{"inputs":[{"data":[[1,2.5],[-3,4e0]],"datatype":"FP32","shape":[2,2],"name":"x"}]}"#,
    );
    assert_eq!(flat, nested);
    assert_eq!(flat.unwrap().inputs[0].data, fp32(&[1.0, 2.5, -3.0, 4.0]));
}

#[test]
fn binary_tensors_are_taken_in_the_order_of_the_inputs() {
    let json = concat!(
        r#"{"inputs":[{"name":"a","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}},"#,
        r#"{"name":"j","shape":[1],"datatype":"UINT8","data":[7]},"#,
        r#"{"name":"b","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}}]}"#
    );
    let mut body = json.as_bytes().to_vec();
    body.extend(fp32(&[0.5]));
    body.extend([1, 2]);
    let request = InferRequest::parse(&body.into(), Some(json.len()), |_| Ok(())).unwrap();
    assert_eq!(request.inputs[0].data, fp32(&[0.5]));
    assert_eq!(&request.inputs[1].data[..], [7]);
    assert_eq!(&request.inputs[2].data[..], [1, 2]);
}

#[test]
fn refusals_name_the_field() {
    for (json, expected) in [
        ("{", "the request's JSON can't be read"),
        (r#"{"inputs":3}"#, "invalid type: integer `3`"),
        (r#"{}"#, "missing field `inputs`"),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"F32","data":[1]}]}"#,
            r#"`datatype`: "F32""#,
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP16","data":[1]}]}"#,
            "FP16 has no JSON form",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[2],"datatype":"UINT8","data":[1]}]}"#,
            "expected 2 elements, got 1",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[256]}]}"#,
            "out of the range of UINT8",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1e39]}]}"#,
            "out of the range of FP32",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":["a"]}]}"#,
            "got a string",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"INT8","data":[1]}]}"#,
            "negative dimension",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[9223372036854775807,9],"datatype":"INT8","data":[1]}]}"#,
            "more elements",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8"}]}"#,
            "expected `data` or",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":1}}]}"#,
            "`binary_data_size` is 1, 0 bytes are left",
        ),
    ] {
        let message = refusal(json);
        assert!(message.contains(expected), "{json}\n{message}");
    }
}

#[test]
fn room_is_asked_for_before_it_is_taken_and_no_element_beyond_the_shape_is_read() {
    let json = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP64","data":[1,2,3]}]}"#;
    let body = Bytes::from_static(json.as_bytes());
    let mut asked = 0;
    let error = InferRequest::parse(&body, None, |bytes| {
        asked += bytes;
        Ok(())
    });
    assert!(
        error
            .unwrap_err()
            .message
            .contains("more elements than the shape has")
    );
    assert_eq!(asked, 16);
    let full = InferError::new(crate::Code::Overloaded, "no room");
    assert_eq!(
        InferRequest::parse(&body, None, |_| Err(full.clone())),
        Err(full)
    );
}

#[test]
fn an_output_is_given_once_and_names_are_bounded() {
    let twice = r#"{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}"#;
    assert_eq!(refusal(twice), "output `y` is asked for twice");
    let long = "x".repeat(1025);
    assert!(refusal(&format!(r#"{{"id":"{long}","inputs":[]}}"#)).contains("at most 1024 bytes"));
}

#[test]
fn lists_are_bounded_while_they_are_read() {
    let shape = vec!["1"; 33].join(",");
    let json =
        format!(r#"{{"inputs":[{{"name":"x","shape":[{shape}],"datatype":"INT8","data":[1]}}]}}"#);
    assert!(refusal(&json).contains("a list of at most 32"));
    let inputs = vec![r#"{"name":"x","shape":[1],"datatype":"INT8","data":[1]}"#; 257].join(",");
    assert!(refusal(&format!(r#"{{"inputs":[{inputs}]}}"#)).contains("a list of at most 256"));
}

#[test]
fn a_header_length_beyond_the_body_is_refused() {
    let error =
        InferRequest::parse(&Bytes::from_static(b"{}"), Some(99_999), |_| Ok(())).unwrap_err();
    assert_eq!(
        error.message,
        "inference header size should be in range (0, 2), got: 99999"
    );
}

#[test]
fn bytes_after_the_last_tensor_are_refused() {
    let json = r#"{"inputs":[]}"#;
    let error = InferRequest::parse(&Bytes::from(format!("{json}xx")), Some(json.len()), |_| {
        Ok(())
    })
    .unwrap_err();
    assert!(error.message.starts_with("2 bytes follow"), "{error}");
}

#[test]
fn an_answer_has_what_was_asked_for_in_its_order() {
    let request = parse(
        r#"{"id":"7","inputs":[],"outputs":[{"name":"b","parameters":{"binary_data":true}},{"name":"a"}]}"#,
    )
    .unwrap();
    let output = |name: &str, values: &[f32]| Tensor {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: vec![values.len() as i64],
        data: fp32(values).into(),
    };
    let outputs = [
        output("a", &[0.1, f32::NAN]),
        output("b", &[2.0]),
        output("c", &[3.0]),
    ];
    let answer = EncodedAnswer::encode(&request, "m", "1", &outputs).unwrap();
    let json = concat!(
        r#"{"id":"7","model_name":"m","model_version":"1","outputs":["#,
        r#"{"name":"b","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},"#,
        r#"{"name":"a","datatype":"FP32","shape":[2],"data":[0.1,null]}]}"#
    );
    assert_eq!(answer.json_bytes, Some(json.len()));
    assert_eq!(&answer.body[..json.len()], json.as_bytes());
    assert_eq!(&answer.body[json.len()..], fp32(&[2.0]));

    let unknown = parse(r#"{"inputs":[],"outputs":[{"name":"z"}]}"#).unwrap();
    let error = EncodedAnswer::encode(&unknown, "m", "1", &outputs).unwrap_err();
    assert_eq!(
        error.message,
        "output `z` is not the model's: expected `a`, `b`, `c`"
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
        let tensor = Tensor { name: "x".to_owned(), datatype, shape: vec![words.len() as i64], data: data.into() };
        let request = parse(r#"{"inputs":[]}"#).unwrap();
        let answer = EncodedAnswer::encode(&request, "m", "1", std::slice::from_ref(&tensor)).unwrap();
        let text = std::str::from_utf8(&answer.body).unwrap().replace("\"outputs\"", "\"inputs\"");
        prop_assert_eq!(&parse(&text).unwrap().inputs[0], &tensor);
    }

    #[test]
    fn any_body_is_parsed_without_panic(body in prop::collection::vec(any::<u8>(), 0..200), header in 0_usize..300) {
        let _ = InferRequest::parse(&body.into(), Some(header), |_| Ok(()));
    }

    #[test]
    fn any_json_like_body_is_parsed_without_panic(
        text in r#"\{"inputs":\[\{"name":"x","shape":\[(-?[0-9]{1,20},?){0,3}\],"datatype":"(FP32|BYTES|INT8|BOOL)","data":[\[\]0-9a-z",.\-]{0,20}\}\]\}"#,
    ) {
        let _ = parse(&text);
    }
}
