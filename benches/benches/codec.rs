//! What a tensor of 640 × 640 × 3 FP32 costs on its way in and out, as JSON, as bytes and in shared
//! memory.
//!
//! `cargo bench -p hearth-benches --bench codec`. Each form beside a copy of the same bytes, all
//! taking turns in one run; medians; one thread. MB/s are of the tensor's bytes, 4.9 MB, whatever its
//! text takes.

#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use model_store::{DataType, ModelSpec, TensorSpec};
use serde_json::value::RawValue;
use workers_protocol::codec::{EncodedAnswer, InferRequest};
use workers_protocol::{CheckedInputs, Target, Tensor};

const SHAPE: [i64; 4] = [1, 640, 640, 3];
const N_ELEMENTS: usize = 640 * 640 * 3;
const N_ROUNDS: usize = 15;

/// What is measured, in turns.
#[derive(Default)]
struct Race<'a>(Vec<Contender<'a>>);

struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<()> + 'a>,
    times: Vec<Duration>,
}

fn main() -> Result<()> {
    let values: Vec<f32> = (0..N_ELEMENTS)
        .map(|at| (at * 7919 % 256) as f32 / 255.0)
        .collect();
    let bytes: Bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let texts = [
        (
            "as 127",
            list(
                values
                    .iter()
                    .map(|value| (value * 255.0).round().to_string()),
            ),
        ),
        ("as 0.49803922", list(values.iter().map(f32::to_string))),
        // What clients send that hold doubles, as Python's.
        (
            "as 0.49803921580314636",
            list(values.iter().map(|&value| f64::from(value).to_string())),
        ),
    ];
    let spec = spec();
    let target = Target {
        model: "bench",
        spec: &spec,
    };
    let read = |body: &Bytes, json_bytes| {
        let request = InferRequest::parse(body, json_bytes, target, |_| Ok(()))?;
        let checked = CheckedInputs::check(target, request.inputs)?;
        anyhow::ensure!(black_box(checked).inputs[0].data.len() == N_ELEMENTS * 4);
        Ok(())
    };

    let json = request(r#""parameters":{"binary_data_size":4915200}"#);
    let binary = Bytes::from([json.as_bytes(), &bytes].concat());
    let object = shared(&bytes)?;
    let output = [Tensor {
        name: "x".to_owned(),
        datatype: DataType::Fp32,
        shape: SHAPE.to_vec(),
        data: bytes.clone(),
    }];
    let write = |wanted: &InferRequest| {
        let given = wanted.choose(target, &output, &[])?;
        black_box(EncodedAnswer::encode(None, "bench", "1", &given)?);
        Ok(())
    };
    let asking = |is_binary: bool| {
        let json = format!(r#"{{"inputs":[],"parameters":{{"binary_data_output":{is_binary}}}}}"#);
        InferRequest::parse(&Bytes::from(json), None, target, |_| Ok(()))
    };
    let (as_bytes, as_json) = (asking(true)?, asking(false)?);

    let mut race = Race::default();
    race.add("a copy of its bytes".to_owned(), || {
        black_box(bytes.to_vec());
        Ok(())
    });
    race.add("in, as bytes after the JSON".to_owned(), || {
        read(&binary, Some(json.len()))
    });
    race.add("in, read from shared memory".to_owned(), || {
        let mut read = vec![0; bytes.len()];
        object.read_exact_at(&mut read, 0)?;
        black_box(read);
        Ok(())
    });
    for (how, text) in &texts {
        let body = Bytes::from(request(&format!(r#""data":{text}"#)));
        race.add(format!("in, as JSON, {how}"), move || read(&body, None));
        race.add(format!("    serde_json alone, skipped, {how}"), move || {
            black_box(serde_json::from_str::<&RawValue>(text)?);
            Ok(())
        });
        race.add(
            format!("    serde_json alone, to a list, {how}"),
            move || {
                black_box(serde_json::from_str::<Vec<f32>>(text)?);
                Ok(())
            },
        );
    }

    race.add("out, as bytes after the JSON".to_owned(), || {
        write(&as_bytes)
    });
    race.add("out, as JSON".to_owned(), || write(&as_json));
    race.add("    serde_json alone, from a list".to_owned(), || {
        black_box(serde_json::to_vec(&values)?);
        Ok(())
    });
    race.run()
}

impl<'a> Race<'a> {
    fn add(&mut self, name: String, run: impl FnMut() -> Result<()> + 'a) {
        self.0.push(Contender {
            name,
            run: Box::new(run),
            times: Vec::new(),
        });
    }

    /// Lets each run in each round, and prints the medians.
    fn run(mut self) -> Result<()> {
        for _ in 0..N_ROUNDS {
            for contender in &mut self.0 {
                let began = Instant::now();
                (contender.run)().with_context(|| contender.name.clone())?;
                contender.times.push(began.elapsed());
            }
        }
        let mut copy_ms = None;
        for Contender { name, times, .. } in &mut self.0 {
            times.sort_unstable();
            let ms = times[times.len() / 2].as_secs_f64() * 1e3;
            let times_copy = ms / *copy_ms.get_or_insert(ms);
            let mb_s = (N_ELEMENTS * 4) as f64 / ms / 1e3;
            println!("{name:58} {ms:9.3} ms {mb_s:9.0} MB/s {times_copy:7.1} copies");
        }
        Ok(())
    }
}

fn list(elements: impl Iterator<Item = String>) -> String {
    format!("[{}]", elements.collect::<Vec<_>>().join(","))
}

fn request(data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":[1,640,640,3],"datatype":"FP32",{data}}}]}}"#)
}

/// Returns a file in memory that has these bytes, and no name any more.
fn shared(bytes: &[u8]) -> Result<File> {
    let file = tempfile::tempfile_in("/dev/shm")?;
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

/// A model that gives what it takes.
fn spec() -> ModelSpec {
    let tensor = || TensorSpec {
        name: "x".to_owned(),
        datatype: DataType::Fp32,
        shape: vec![-1, 640, 640, 3],
        batch_axis: Some(0),
    };
    ModelSpec {
        platform: "onnxruntime_onnx".to_owned(),
        task: None,
        inputs: vec![tensor()],
        outputs: vec![tensor()],
        max_batch: 1,
        instances: 1,
        notes: Vec::new(),
    }
}
