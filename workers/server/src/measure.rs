//! Measuring what a version can do on this machine: with how many instances it has the highest
//! throughput, how long its batches take then, how long it takes to load, and its memory.
//!
//! Of a version with stages only loading and memory are measured, with one instance: how long its
//! runs take depends on what the first stage finds, and zeros show nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use model_store::{Device, Host, Instances, Manifest, Measurement};
use workers_ort::Runtime;
use workers_protocol::{Assignment, InferError};

use crate::example::Example;
use crate::instance::caught;
use crate::model::{LoadAnother, Loaded, Runner, Staged, Stager, cores, read_manifest};

/// Time for the curve of each number of instances, to choose one by; enough for the smaller batches.
const CHOICE_TIME: Duration = Duration::from_millis(500);
/// Time for the curve of the chosen one.
const CURVE_TIME: Duration = Duration::from_secs(2);
/// Parts of that time that one size of a batch may take, where it runs often enough in it.
const CURVE_PARTS: u32 = 8;
/// Runs of each size that are wanted for a median, as far as time allows, and that are enough.
const FEW_RUNS: usize = 3;
const MANY_RUNS: usize = 1000;

/// By how much more instances have to be better: each is another copy of the weights, and answers a
/// single request more slowly.
const GAIN: f64 = 1.05;
/// Instances on a GPU, beside one: while one copies or waits for the processor, another computes.
const MORE_ON_GPU: [u32; 2] = [2, 4];
/// Most bytes of a version's files, summed over its instances; models so large use the cores well by
/// themselves, and the check must not take the machine's memory.
const MAX_COPIES_BYTES: u64 = 1 << 30;

/// Measures a version. Takes some seconds.
///
/// # Errors
/// When it can't be loaded or run.
pub(crate) fn measure(
    runtime: &Runtime,
    assignment: &Assignment,
) -> Result<Measurement, InferError> {
    let manifest = read_manifest(&assignment.model)?;
    let candidates = candidates(assignment, &manifest);
    let mut loaded = if manifest.device == Device::Cpu {
        let instances = best_on_cores(runtime, assignment, &manifest, &candidates)?;
        forget_peak_memory();
        Copies::load(runtime, assignment, instances)?
    } else {
        let mut loaded = Copies::load(runtime, assignment, 1)?;
        loaded.choose(&manifest, &candidates);
        forget_peak_memory();
        loaded
    };
    let curve = if manifest.stages.is_empty() {
        loaded.curve(&manifest, CURVE_TIME)?
    } else {
        Curve::default()
    };
    let n_cores = cores(assignment.threads);
    let instances = loaded.runners.len();
    Ok(Measurement {
        host: host(runtime, assignment.threads),
        instances: count(instances),
        threads: manifest
            .instances
            .threads
            .unwrap_or(count((n_cores / instances).max(1))),
        bucket: curve.bucket,
        curve: curve
            .points
            .iter()
            .map(|&(items, time)| (items, nanoseconds(time)))
            .collect(),
        load_ns: nanoseconds(loaded.load_time),
        memory_bytes: peak_memory()?,
    })
}

/// Returns the number of instances with the highest throughput, the cores being divided among them.
fn best_on_cores(
    runtime: &Runtime,
    assignment: &Assignment,
    manifest: &Manifest,
    candidates: &[u32],
) -> Result<u32, InferError> {
    let mut best: Option<(u32, f64)> = None;
    for &instances in candidates.iter().filter(|_| candidates.len() > 1) {
        let mut loaded = Copies::load(runtime, assignment, instances)?;
        let curve = loaded.curve(manifest, CHOICE_TIME)?.points;
        let throughput = throughput(instances, &curve);
        if best.is_none_or(|(_, before)| throughput > GAIN * before) {
            best = Some((instances, throughput));
        }
    }
    Ok(best.map_or(1, |(instances, _)| instances))
}

/// Returns what a measurement here holds for.
pub(crate) fn host(runtime: &Runtime, threads: Option<u32>) -> Host {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // Not every architecture names its processors there.
    let processor = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(std::env::consts::ARCH, |(_, name)| name);
    let mut hardware = format!("{processor}, {} cores", cores(threads));
    for gpu in gpus() {
        hardware = format!("{hardware}, {gpu}");
    }
    Host {
        engine: runtime.build().to_owned(),
        hardware,
    }
}

/// Returns the names of NVIDIA's GPUs, as their driver has them, in the order of their addresses.
fn gpus() -> Vec<String> {
    let folders = fs::read_dir("/proc/driver/nvidia/gpus");
    let mut folders: Vec<_> = folders
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    folders.sort();
    let name = |folder: &Path| {
        let information = fs::read_to_string(folder.join("information")).ok()?;
        let mut lines = information.lines();
        lines.find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_owned()))
    };
    folders.iter().filter_map(|folder| name(folder)).collect()
}

/// Returns the numbers of instances to choose from, ascending.
fn candidates(assignment: &Assignment, manifest: &Manifest) -> Vec<u32> {
    if manifest.instances != Instances::default() || !manifest.stages.is_empty() {
        return vec![1];
    }
    let n_cores = count(cores(assignment.threads));
    let mut candidates = vec![1];
    if manifest.device != Device::Cpu {
        candidates.extend(MORE_ON_GPU);
    } else {
        if n_cores >= 4 {
            candidates.push(n_cores / 2);
        }
        if n_cores > 1 {
            candidates.push(n_cores);
        }
    }
    let bytes = folder_bytes(&assignment.model);
    candidates.retain(|&instances| {
        instances == 1 || bytes.saturating_mul(u64::from(instances)) <= MAX_COPIES_BYTES
    });
    candidates
}

/// Returns the size of a version's files, which lie in its folder and those below.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Returns items per second at the best size of a batch.
fn throughput(instances: u32, curve: &[(u32, Duration)]) -> f64 {
    let per_second = curve.iter().map(|&(items, time)| {
        f64::from(instances) * f64::from(items) / time.as_secs_f64().max(1e-9)
    });
    per_second.fold(0.0, f64::max)
}

/// A version with all its instances.
struct Copies {
    stager: Stager,
    max_batch: u32,
    runners: Vec<Runner>,
    load_another: LoadAnother,
    /// Of the first.
    load_time: Duration,
}

/// Sizes of batches, and how long each takes.
#[derive(Default)]
struct Curve {
    bucket: u64,
    points: Vec<(u32, Duration)>,
}

impl Copies {
    fn load(
        runtime: &Runtime,
        assignment: &Assignment,
        instances: u32,
    ) -> Result<Self, InferError> {
        let assignment = Assignment {
            instances: Some(instances),
            ..assignment.clone()
        };
        let began = Instant::now();
        let loaded = caught("loading", || Loaded::load(runtime, &assignment))?;
        let load_time = began.elapsed();
        let Loaded {
            spec,
            stager,
            runner,
            load_another,
        } = loaded;
        let mut copies = Self {
            stager,
            max_batch: spec.max_batch,
            runners: vec![runner],
            load_another,
            load_time,
        };
        copies.grow(spec.instances)?;
        Ok(copies)
    }

    fn grow(&mut self, instances: u32) -> Result<(), InferError> {
        for _ in self.runners.len()..instances as usize {
            let runner = caught("loading", &mut self.load_another)?;
            self.runners.push(runner);
        }
        Ok(())
    }

    /// Grows for as long as more have a higher throughput and there is memory for them.
    fn choose(&mut self, manifest: &Manifest, candidates: &[u32]) {
        let mut best = (1, 0.0);
        for &instances in candidates.iter().filter(|_| candidates.len() > 1) {
            let grown = self.grow(instances);
            let Ok(curve) = grown.and_then(|()| self.curve(manifest, CHOICE_TIME)) else {
                break;
            };
            let throughput = throughput(instances, &curve.points);
            if throughput <= GAIN * best.1 {
                break;
            }
            best = (instances, throughput);
        }
        // Those of the manifest stay, where it says how many.
        if candidates.len() > 1 {
            self.runners.truncate(best.0 as usize);
        }
    }

    /// Measures batches of 1, 2, 4 … items, all instances running one each, for about so long.
    fn curve(&mut self, manifest: &Manifest, time: Duration) -> Result<Curve, InferError> {
        let first = self.runners.first_mut();
        let first = first.ok_or_else(|| InferError::internal("no instance"))?;
        let example = Example::find(&self.stager, first, manifest)?;
        let end = Instant::now() + time;
        let mut curve = Curve::default();
        let max_batch = self.max_batch;
        let doubled = std::iter::successors(Some(1_u32), |items| items.checked_mul(2));
        let sizes = doubled
            .take_while(|&items| items < max_batch)
            .chain([max_batch]);
        for items in sizes {
            // Twice the items take twice the time, as a rule, and one run more is not counted.
            let expected = curve.points.last().map(|&(_, last)| 4 * last);
            let left = end.saturating_duration_since(Instant::now());
            if expected.is_some_and(|expected| expected > left) {
                break;
            }
            let batch = example.stage(&self.stager, items as usize)?;
            let enough = Instant::now() + time / CURVE_PARTS;
            match self.run(&batch, enough, end) {
                Ok(median) => curve.points.push((items, median)),
                // A graph may declare a free batch and have it fixed inside.
                Err(_) if items > 1 => break,
                Err(error) => return Err(error),
            }
            curve.bucket = batch.first().map_or(0, Staged::bucket);
        }
        Ok(curve)
    }

    /// Runs a batch on all instances at once, again and again until `enough`, or until `end` with
    /// fewer runs than are wanted, and returns the median time of a run.
    fn run(
        &mut self,
        batch: &[Staged],
        enough: Instant,
        end: Instant,
    ) -> Result<Duration, InferError> {
        let repeat = |runner: &mut Runner| {
            // The first run of a size plans its memory, and takes it.
            runner.run(batch)?;
            let mut times = Vec::new();
            loop {
                let began = Instant::now();
                runner.run(batch)?;
                times.push(began.elapsed());
                let wanted = if times.len() < FEW_RUNS { end } else { enough };
                if Instant::now() >= wanted || times.len() >= MANY_RUNS {
                    return Ok(times);
                }
            }
        };
        let times: Result<Vec<Vec<Duration>>, InferError> = std::thread::scope(|scope| {
            let runners = self.runners.iter_mut();
            let threads: Vec<_> = runners
                .map(|runner| scope.spawn(|| caught("the model", || repeat(runner))))
                .collect();
            let times = threads.into_iter().map(|thread| {
                let panicked = |_| Err(InferError::internal("a thread panicked"));
                thread.join().unwrap_or_else(panicked)
            });
            times.collect()
        });
        let mut times = times?.concat();
        times.sort_unstable();
        Ok(times.get(times.len() / 2).copied().unwrap_or_default())
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes what is resident now the most that ever was (proc(5), `clear_refs`); where that is denied,
/// what was measured before counts too.
fn forget_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Returns the most memory that was resident, in bytes.
fn peak_memory() -> Result<u64, InferError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok())
        .map(|kilobytes| kilobytes << 10)
        .ok_or_else(|| InferError::internal("/proc/self/status does not say the peak of memory"))
}
