use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn entry(sizes: &[usize]) -> Entry {
    let inputs = sizes
        .iter()
        .enumerate()
        .map(|(index, &size)| Tensor {
            name: format!("input{index}"),
            datatype: DataType::Uint8,
            shape: vec![i64::try_from(size).unwrap()],
            data: (0..size)
                .map(|at| (at * 7 + index) as u8)
                .collect::<Vec<_>>()
                .into(),
        })
        .collect();
    Entry {
        id: "42".to_owned(),
        inputs,
        options: PictureOptions::default(),
        timeout: Some(Duration::from_millis(250)),
        stage_only: true,
        is_bulk: true,
        parts_bytes: None,
        trace: Some(TraceContext::root()),
    }
}

/// What a worker does with the messages: the data of the inputs, put together again.
fn reassemble(messages: impl Iterator<Item = ModelInferRequest>) -> Entry {
    let mut whole: Option<Entry> = None;
    let mut data: Vec<Vec<u8>> = Vec::new();
    let mut expects_more = true;
    for message in messages {
        assert!(
            message.encoded_len() <= PART_BYTES + 1024,
            "a message holds up the stream"
        );
        match Command::from_message(message).unwrap() {
            Command::Entry(entry) => {
                data = entry
                    .inputs
                    .iter()
                    .map(|input| input.data.to_vec())
                    .collect();
                expects_more = entry.parts_bytes.is_some();
                whole = Some(entry);
            }
            Command::Part(part) => {
                assert!(expects_more);
                data[part.input_index].extend_from_slice(&part.data);
                expects_more = part.has_more;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!expects_more);
    let mut whole = whole.unwrap();
    for (input, data) in whole.inputs.iter_mut().zip(data) {
        input.data = data.into();
    }
    whole.parts_bytes = None;
    whole
}

#[test]
fn a_small_entry_is_one_message() {
    assert_eq!(entry(&[3, 5]).into_messages().count(), 1);
}

#[test]
fn picture_options_survive_the_wire() {
    let options = PictureOptions {
        score: Some(0.25),
        iou: Some(0.5),
        top_k: Some(3),
        labels: Some(vec!["bus".to_owned(), "traffic light".to_owned()]),
        draw: Some(DrawFormat::Png),
        crop: Some(0.1),
    };
    let sent = Entry {
        options,
        ..entry(&[3])
    };
    assert_eq!(reassemble(sent.clone().into_messages()), sent);
}

#[test]
fn events_survive_the_wire() {
    let credits = Credits {
        slots: 2,
        stage_entries: 64,
        stage_bytes: 1 << 40,
        stage_pixels: u64::MAX,
    };
    let Event::Ready(read) = Event::from_message(Event::Ready(credits).into_message()).unwrap()
    else {
        panic!("not ready");
    };
    assert_eq!(read, credits);

    let staged = Event::Staged {
        id: "7".to_owned(),
        bucket: u64::MAX,
    };
    let Event::Staged { id, bucket } = Event::from_message(staged.into_message()).unwrap() else {
        panic!("not staged");
    };
    assert_eq!((id.as_str(), bucket), ("7", u64::MAX));

    for code in Code::ALL {
        let error = InferError::new(code, "it broke");
        let failed = Event::Answer {
            id: "7".to_owned(),
            result: Err(error.clone()),
        };
        let Event::Answer { result, .. } = Event::from_message(failed.into_message()).unwrap()
        else {
            panic!("no answer");
        };
        assert_eq!(result, Err(error));
    }
}

#[test]
fn an_answer_survives_the_wire() {
    let at = |nanos| UNIX_EPOCH + Duration::from_nanos(nanos);
    let run = TraceContext::root();
    let trail = Trail {
        decode: at(1_700_000_000_123_456_789),
        infer: at(1_700_000_000_223_456_789),
        post: at(u64::MAX),
        run,
        links: vec![run.child(), TraceContext::root()],
    };
    for trail in [None, Some(Box::new(trail))] {
        let answer = Answer {
            outputs: entry(&[3]).inputs,
            timing: Timing {
                decode: Duration::from_micros(1),
                infer: Duration::from_micros(2),
                post: Duration::from_micros(3),
                batch_size: 4,
            },
            trail,
        };
        let message = Event::Answer {
            id: "7".to_owned(),
            result: Ok(answer.clone()),
        };
        let Event::Answer { id, result } = Event::from_message(message.into_message()).unwrap()
        else {
            panic!("no answer");
        };
        assert_eq!((id.as_str(), result), ("7", Ok(answer)));
    }
}

#[test]
fn a_batch_is_named_by_its_ids() {
    let Command::Run(ids) = Command::from_message(run_message([3, 41].into_iter())).unwrap() else {
        panic!("not a run");
    };
    assert_eq!(ids, ["3", "41"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn entries_of_any_size_are_put_together_again(
        sizes in prop::collection::vec(0_usize..3 * PART_BYTES, 1..4),
    ) {
        let sent = entry(&sizes);
        prop_assert_eq!(reassemble(sent.clone().into_messages()), sent);
    }

    #[test]
    fn any_bytes_that_decode_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(message) = ModelInferRequest::decode(&bytes[..]) {
            let _ = Command::from_message(message);
        }
        if let Ok(message) = ModelStreamInferResponse::decode(&bytes[..]) {
            let _ = Event::from_message(message);
        }
    }
}
