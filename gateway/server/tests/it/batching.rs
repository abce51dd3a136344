//! Batches of several clients' tensors, over HTTP and gRPC, and requests larger than a batch.

use serde_json::{Value, json};
use workers_protocol::oip::ModelInferRequest;
use workers_protocol::oip::model_infer_request::InferInputTensor;

use crate::add_one::{Halted, await_metric, worker};
use crate::grpc::connect;
use crate::hearth::{Hearth, PLAIN, Store, eventually, shared, sources, tiny};
use crate::infer::tensor_request;

/// Of Silero's input and state, per item.
const INPUT: usize = 576;
const STATE: usize = 128;

/// Sound, and what was heard before, of so many items: the same for the same seed.
#[derive(Clone)]
struct Sound {
    items: usize,
    input: Vec<f32>,
    /// `[2, items, 128]`
    state: Vec<f32>,
}

/// What is heard in it, and the next state.
#[derive(Debug)]
struct Heard {
    output: Vec<f32>,
    state: Vec<f32>,
}

impl Sound {
    fn new(seed: usize, items: usize) -> Self {
        let wave = |n: usize, scale: f32| {
            let at = |at: usize| ((at * (seed + 3)) as f32 * 0.37).sin() * scale;
            (0..n).map(at).collect()
        };
        Self {
            items,
            input: wave(items * INPUT, 0.5),
            state: wave(2 * items * STATE, 0.1),
        }
    }

    fn shapes(&self) -> [Vec<i64>; 3] {
        let items = self.items as i64;
        [
            vec![items, INPUT as i64],
            vec![2, items, STATE as i64],
            vec![],
        ]
    }

    fn over_http(&self, hearth: &Hearth) -> (Heard, String) {
        let [input, state, rate] = self.shapes();
        let body = json!({"inputs": [
            {"name": "sr", "datatype": "INT64", "shape": rate, "data": [16000]},
            {"name": "state", "datatype": "FP32", "shape": state, "data": self.state},
            {"name": "input", "datatype": "FP32", "shape": input, "data": self.input},
        ]});
        let answer = hearth.post("/v2/models/vad/infer", body.to_string().as_bytes());
        let json = answer.ok();
        let output = |name: &str, shape: Value| {
            let mut outputs = json["outputs"].as_array().unwrap().iter();
            let output = outputs.find(|output| output["name"] == name).unwrap();
            assert_eq!(output["shape"], shape);
            let data = output["data"].as_array().unwrap().iter();
            data.map(|value| value.as_f64().unwrap() as f32).collect()
        };
        let heard = Heard {
            output: output("output", json!([self.items, 1])),
            state: output("stateN", json!([2, self.items, STATE])),
        };
        (heard, answer.header("server-timing").unwrap().to_owned())
    }

    fn message(&self) -> ModelInferRequest {
        let bytes = |floats: &[f32]| -> Vec<u8> {
            floats
                .iter()
                .flat_map(|float| float.to_le_bytes())
                .collect()
        };
        let names = [("input", "FP32"), ("state", "FP32"), ("sr", "INT64")];
        let inputs = names.into_iter().zip(self.shapes());
        ModelInferRequest {
            model_name: "vad".to_owned(),
            inputs: inputs
                .map(|((name, datatype), shape)| InferInputTensor {
                    name: name.to_owned(),
                    datatype: datatype.to_owned(),
                    shape,
                    ..InferInputTensor::default()
                })
                .collect(),
            raw_input_contents: vec![
                bytes(&self.input).into(),
                bytes(&self.state).into(),
                16000_i64.to_le_bytes().to_vec().into(),
            ],
            ..ModelInferRequest::default()
        }
    }

    async fn over_grpc(&self, hearth: &Hearth) -> Heard {
        let (mut client, _) = connect(hearth).await;
        let answer = client
            .model_infer(self.message())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            answer.outputs[1].shape,
            [2, self.items as i64, STATE as i64]
        );
        let floats = |index: usize| -> Vec<f32> {
            let (floats, _) = answer.raw_output_contents[index].as_chunks::<4>();
            floats
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect()
        };
        Heard {
            output: floats(0),
            state: floats(1),
        }
    }
}

impl Heard {
    #[track_caller]
    fn assert_near(&self, other: &Self) {
        assert_eq!(self.output.len(), other.output.len());
        assert_eq!(self.state.len(), other.state.len());
        let pairs = self.output.iter().zip(&other.output);
        for (a, b) in pairs.chain(self.state.iter().zip(&other.state)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}

/// Starts a gateway with Silero, whose batches have at most so many items.
fn silero(max_batch: u32, args: &[&str]) -> Option<Hearth> {
    let shared = shared()?;
    let manifest = sources().join("examples/models/silero-vad/model.yaml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let manifest = format!("{manifest}batch: {{ max: {max_batch} }}\n");
    let store = Store::new();
    store.put(
        "vad",
        1,
        &manifest,
        &[shared.join("models/silero_vad.onnx")],
    );
    Some(Hearth::start(store, args))
}

/// Waits until so many entries are at the worker or wait for it.
fn await_entries(hearth: &Hearth, model: &str, n: usize) {
    eventually(&format!("{n} entries wait"), || {
        let metrics = ["running_entries", "staged_entries", "queue_entries"];
        let entries: f64 = metrics.iter().map(|name| hearth.metric(name, model)).sum();
        (entries == n as f64).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_share_batches_whatever_they_speak_and_each_gets_its_own_state_back() {
    let Some(hearth) = silero(16, &[]) else {
        return;
    };
    let sounds: Vec<_> = (0..12).map(|seed| Sound::new(seed, 1 + seed % 3)).collect();
    let alone: Vec<_> = sounds
        .iter()
        .map(|sound| sound.over_http(&hearth).0)
        .collect();

    drop(hearth);

    // One that has learned nothing of larger batches yet, and tries them.
    let hearth = std::sync::Arc::new(silero(16, &[]).unwrap());
    sounds[0].over_http(&hearth);
    let before = hearth.metric("batches_total", "vad");
    let halted = Halted::new(worker(&hearth));
    let mut calls = Vec::new();
    for (index, sound) in sounds.iter().cloned().enumerate() {
        let asked = std::sync::Arc::clone(&hearth);
        calls.push(tokio::spawn(async move {
            if index % 2 == 0 {
                sound.over_grpc(&asked).await
            } else {
                let call = move || sound.over_http(&asked).0;
                tokio::task::spawn_blocking(call).await.unwrap()
            }
        }));
        if index == 0 {
            await_metric(&hearth, "running_entries", "vad", 1.0);
        }
    }
    await_entries(&hearth, "vad", sounds.len());
    drop(halted);
    for (call, alone) in calls.into_iter().zip(&alone) {
        call.await.unwrap().assert_near(alone);
    }
    let batches = hearth.metric("batches_total", "vad") - before;
    assert!(batches < sounds.len() as f64, "{batches} batches");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_larger_than_a_batch_is_split_and_joined_in_order() {
    let Some(hearth) = silero(4, &[]) else {
        return;
    };
    let sound = Sound::new(1, 11);
    // Eleven requests of one item each.
    let mut alone = Heard {
        output: Vec::new(),
        state: vec![0.0; 2 * 11 * STATE],
    };
    for item in 0..11 {
        let row =
            |floats: &[f32], row: usize, length: usize| floats[row * length..][..length].to_vec();
        let rows = [item, 11 + item].map(|at| row(&sound.state, at, STATE));
        let one = Sound {
            items: 1,
            input: row(&sound.input, item, INPUT),
            state: rows.concat(),
        };
        let heard = one.over_http(&hearth).0;
        alone.output.extend(heard.output);
        for (at, state) in [item, 11 + item].into_iter().zip(heard.state.chunks(STATE)) {
            alone.state[at * STATE..][..STATE].copy_from_slice(state);
        }
    }
    let answered = hearth.metric("entries_answered_total", "vad");
    let (heard, timing) = sound.over_http(&hearth);
    heard.assert_near(&alone);
    assert!(timing.contains("batch;desc=\""), "{timing}");
    assert_eq!(
        hearth.metric("entries_answered_total", "vad"),
        answered + 3.0
    );
    sound.over_grpc(&hearth).await.assert_near(&alone);
    assert_eq!(
        hearth.metric("entries_answered_total", "vad"),
        answered + 6.0
    );
    hearth.stop();
}

#[test]
fn a_request_that_is_split_is_admitted_as_a_whole_or_not_at_all() {
    let manifest = "engine: onnx\nbatch: { max: 2 }\n";
    let store = Store::new().with("add", manifest, "add_one");
    // Room for two that wait.
    let hearth = Hearth::start(store, &["--max-queue", "2"]);
    let post = |items: i64| {
        let data: Vec<i64> = (0..4 * items).collect();
        let body = tensor_request("x", "FP32", &[items, 4], &data);
        hearth.post("/v2/models/add/infer", body.as_bytes())
    };
    let sum = |items: i64| -> Value { (1..=4 * items).map(|value| value as f64).collect() };
    let whole = post(2).ok();
    assert_eq!(whole["outputs"][0]["data"], sum(2));
    std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let running = scope.spawn(|| post(2));
        await_metric(&hearth, "running_entries", "add", 1.0);
        let refused = post(6);
        assert_eq!(refused.status, 429, "{}", refused.text());
        assert!(refused.header("retry-after-ms").is_some());
        // Nothing of it is left behind.
        await_entries(&hearth, "add", 1);
        let admitted = scope.spawn(|| post(3));
        await_entries(&hearth, "add", 3);
        drop(halted);
        assert_eq!(running.join().unwrap().ok()["outputs"][0]["data"], sum(2));
        assert_eq!(admitted.join().unwrap().ok()["outputs"][0]["data"], sum(3));
    });
    let sentence = post(513).refusal(400);
    assert!(
        sentence.contains("<= 512 for 'add', and at least 1, got 513"),
        "{sentence}"
    );
    hearth.stop();
}

#[test]
fn requests_that_differ_in_an_input_without_a_batch_axis_do_not_share_a_batch() {
    let hearth = Hearth::start(Store::new().with("scale", PLAIN, "two_inputs"), &[]);
    let post = |factor: i64| {
        let body = json!({"inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 10]},
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [factor]},
        ]});
        let path = "/v2/models/scale/infer";
        hearth.post(path, body.to_string().as_bytes()).ok()["outputs"][0]["data"].clone()
    };
    post(1);
    std::thread::scope(|scope| {
        let halted = Halted::new(worker(&hearth));
        let post = &post;
        let factors = [2, 3, 2, 3, 2, 3];
        let calls = factors.map(|factor| (factor, scope.spawn(move || post(factor))));
        await_entries(&hearth, "scale", factors.len());
        drop(halted);
        for (factor, call) in calls {
            let expected = json!([factor as f64, (10 * factor) as f64]);
            assert_eq!(call.join().unwrap(), expected);
        }
    });
    hearth.stop();
}

#[test]
fn a_larger_batch_in_triton_s_terms_is_served_too() {
    let store = Store::new();
    let version = store.version("add", 1);
    std::fs::create_dir_all(&version).unwrap();
    std::fs::copy(tiny("add_one"), version.join("model.onnx")).unwrap();
    std::fs::write(store.path().join("add/config.pbtxt"), "max_batch_size: 4").unwrap();
    let hearth = Hearth::start(store, &[]);
    let body = tensor_request("x", "FP32", &[9, 4], &[1; 36]);
    let answer = hearth.post("/v2/models/add/infer", body.as_bytes()).ok();
    assert_eq!(answer["outputs"][0]["data"], json!([2.0].repeat(36)));
    assert_eq!(hearth.metric("entries_answered_total", "add"), 3.0);
    hearth.stop();
}
