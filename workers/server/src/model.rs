//! The loaded model: what stages entries (shared by all threads), what runs them (one per
//! instance), and the batches between.

mod masks;
mod pictures;
mod predictions;
mod tensors;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use model_store::{EngineKind, Instances, Manifest, ModelSpec, Task, TensorSpec};
use tokio::sync::{Semaphore, mpsc};
use workers_engine::Engine;
use workers_ort::{LoadOptions, OrtEngine, Runtime};
use workers_protocol::wire::{Credits, Event, MAX_ENTRY_BYTES, MAX_NAMED_AHEAD, PICTURE_INPUT};
use workers_protocol::{Assignment, CheckedInputs, InferError, PictureOptions, Target, Tensor};
use workers_vision::Limits;

use crate::instance::{self, Batch, BatchEntry, Batches, Instance, PostProcessing};
use crate::priority::{self, Quiet};
use masks::MaskRunner;
use pictures::{PictureRunner, PictureStager, StagedPicture};
use tensors::TensorRunner;

/// Items of a batch where neither graph nor manifest says.
const DEFAULT_MAX_BATCH: u32 = 16;

/// A loaded model, before its instances have threads: the first of them, and how to load another.
pub(crate) struct Loaded {
    /// As the graph and the manifest have it, and of a task what clients send and get; its instances
    /// are those that the worker is to have.
    pub(crate) spec: ModelSpec,
    pub(crate) stager: Stager,
    pub(crate) runner: Runner,
    pub(crate) load_another: LoadAnother,
}

pub(crate) type LoadAnother = Box<dyn FnMut() -> Result<Runner, InferError> + Send>;

/// A loaded model, running.
pub(crate) struct Model {
    spec: ModelSpec,
    stager: Stager,
    /// Those that are not loaded yet are empty.
    instances: Slots,
    batches: mpsc::Sender<Batch>,
    credits: Credits,
    quiet: Quiet,
}

/// Turns a request into what an instance runs.
pub(crate) enum Stager {
    Tensors(ModelSpec),
    Pictures(Arc<PictureStager>),
}

/// An entry that is ready to run.
pub(crate) enum Staged {
    Tensors(CheckedInputs),
    Picture(Arc<StagedPicture>),
}

/// Runs batches; owned by one thread.
pub(crate) enum Runner {
    Tensors(TensorRunner),
    Pictures(PictureRunner),
    Masks(MaskRunner),
}

/// What is left to do of an entry when its slot is free.
pub(crate) enum Finish {
    Done(Vec<Tensor>),
    Later(Work),
}

/// Post-processing of one entry.
pub(crate) type Work = Box<dyn FnOnce() -> Result<Vec<Tensor>, InferError> + Send>;

// === loading ===

/// One version's folder, and how it is loaded.
struct Part {
    runtime: Runtime,
    manifest: Manifest,
    folder: PathBuf,
    file: PathBuf,
    instances: u32,
    /// Threads of each instance.
    threads: usize,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

impl Loaded {
    /// Loads the first instance of a version and its stages.
    ///
    /// # Errors
    /// A sentence that says why the version can't be served, or can't be here.
    pub(crate) fn load(runtime: &Runtime, assignment: &Assignment) -> Result<Self, InferError> {
        let manifest = read_manifest(&assignment.model)?;
        match manifest.task {
            Some(Task::FaceMaskDetection) => Self::load_masks(runtime, assignment, &manifest),
            Some(task) => {
                let (part, engine) = Part::load(runtime, &assignment.model, manifest, assignment)?;
                let stager = PictureStager::new(&part, task, limits(assignment), None)?;
                let stager = Arc::new(stager);
                let mut spec = part.spec(Some(task));
                (spec.inputs, spec.outputs) = stager.specs();
                let for_runners = Arc::clone(&stager);
                let runner = move |engine| {
                    Runner::Pictures(PictureRunner::new(engine, Arc::clone(&for_runners)))
                };
                Ok(Self {
                    spec,
                    stager: Stager::Pictures(stager),
                    runner: runner(engine),
                    load_another: Box::new(move || part.load_engine().map(&runner)),
                })
            }
            None => {
                let (part, engine) = Part::load(runtime, &assignment.model, manifest, assignment)?;
                // The gateway names classes by them; a version without the file is refused here.
                part.labels()?;
                let runner = |engine| Runner::Tensors(TensorRunner::new(engine));
                let spec = part.spec(None);
                Ok(Self {
                    stager: Stager::Tensors(spec.clone()),
                    spec,
                    runner: runner(engine),
                    load_another: Box::new(move || part.load_engine().map(runner)),
                })
            }
        }
    }

    fn load_masks(
        runtime: &Runtime,
        assignment: &Assignment,
        manifest: &Manifest,
    ) -> Result<Self, InferError> {
        let ([faces, masks], [face_stage, mask_stage]) =
            (&assignment.stages[..], &manifest.stages[..])
        else {
            return Err(InferError::invalid(format!(
                "task face-mask-detection: expected two stages, a face detector and a classifier, got {}",
                manifest.stages.len()
            )));
        };
        let mut face_manifest = read_manifest(faces)?;
        face_manifest.output.score = face_stage.score.or(face_manifest.output.score);
        face_manifest.output.iou = face_stage.iou.or(face_manifest.output.iou);
        let (faces, face_engine) = Part::load(runtime, faces, face_manifest, assignment)?;
        let (masks, mask_engine) = Part::load(runtime, masks, read_manifest(masks)?, assignment)?;

        let task = Task::FaceMaskDetection;
        let mut spec = faces.spec(Some(task));
        spec.instances = spec.instances.min(masks.instances);
        if let Some(max) = manifest.batch.max {
            spec.max_batch = spec.max_batch.min(max);
        }
        let classifier = Arc::new(masks::Classify::new(&masks, mask_stage)?);
        let second = Some(Arc::clone(&classifier));
        let stager = PictureStager::new(&faces, task, limits(assignment), second)?;
        let stager = Arc::new(stager);
        (spec.inputs, spec.outputs) = stager.specs();
        let for_runners = Arc::clone(&stager);
        let runner = move |faces, masks| {
            let (stager, classifier) = (Arc::clone(&for_runners), Arc::clone(&classifier));
            Runner::Masks(MaskRunner::new(faces, masks, stager, classifier))
        };
        Ok(Self {
            spec,
            stager: Stager::Pictures(stager),
            runner: runner(face_engine, mask_engine),
            load_another: Box::new(move || Ok(runner(faces.load_engine()?, masks.load_engine()?))),
        })
    }
}

const fn limits(assignment: &Assignment) -> Limits {
    Limits {
        max_pixels: assignment.max_pixels,
    }
}

impl Part {
    /// Returns the part, and its first engine.
    fn load(
        runtime: &Runtime,
        folder: &Path,
        manifest: Manifest,
        assignment: &Assignment,
    ) -> Result<(Self, Box<dyn Engine>), InferError> {
        let file = manifest
            .model_file(folder)
            .map_err(|error| InferError::invalid(error.to_string()))?;
        let instances = if manifest.instances == Instances::default() {
            assignment.instances
        } else {
            manifest.instances.count
        };
        let instances = instances.unwrap_or(1).max(1);
        let threads = manifest.instances.threads.map_or_else(
            || (cores(assignment.threads) / instances as usize).max(1),
            |threads| usize::try_from(threads).unwrap_or(1),
        );
        let mut part = Self {
            runtime: runtime.clone(),
            manifest,
            folder: folder.to_owned(),
            file,
            instances,
            threads,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let engine = part.load_engine()?;
        part.inputs = engine.inputs().to_vec();
        part.outputs = engine.outputs().to_vec();
        Ok((part, engine))
    }

    fn load_engine(&self) -> Result<Box<dyn Engine>, InferError> {
        let options = LoadOptions {
            device: self.manifest.device,
            threads: self.threads,
            inputs: &self.manifest.inputs,
            outputs: &self.manifest.outputs,
        };
        match self.manifest.engine {
            Some(EngineKind::Onnx) => Ok(Box::new(OrtEngine::load(
                &self.runtime,
                &self.file,
                &options,
            )?)),
            None => Err(InferError::invalid("model.yaml has no `engine`")),
        }
    }

    fn spec(&self, task: Option<Task>) -> ModelSpec {
        let is_free = |spec: &TensorSpec| {
            spec.batch_axis
                .is_some_and(|axis| spec.shape.get(axis) == Some(&-1))
        };
        // Every output has to be cut apart again, so every one needs a batch axis.
        let can_batch = self.inputs.iter().any(is_free) && self.outputs.iter().all(is_free);
        let max_batch = if can_batch {
            self.manifest.batch.max.unwrap_or(DEFAULT_MAX_BATCH)
        } else {
            1
        };
        let mut notes = Vec::new();
        if let (false, Some(asked @ 2..)) = (can_batch, self.manifest.batch.max) {
            notes.push(format!(
                "`batch.max` is {asked}, but the graph fixes the batch: one at a time"
            ));
        }
        ModelSpec {
            platform: "onnxruntime_onnx".to_owned(),
            task,
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            max_batch,
            instances: self.instances,
            notes,
        }
    }

    fn labels(&self) -> Result<Vec<String>, InferError> {
        let labels = self.manifest.read_labels(&self.folder);
        Ok(labels
            .map_err(|error| InferError::invalid(error.to_string()))?
            .unwrap_or_default())
    }
}

/// Cores to use: as many as asked for, else those that this process may use.
pub(crate) fn cores(threads: Option<u32>) -> usize {
    let may_use = || available_parallelism().map_or(1, std::num::NonZero::get);
    threads.map_or_else(may_use, |threads| threads.max(1) as usize)
}

pub(crate) fn read_manifest(folder: &Path) -> Result<Manifest, InferError> {
    Manifest::read(folder).map_err(|error| InferError::invalid(error.to_string()))
}

// === staging ===

/// Memory of staged pictures' input tensors. A picture of a few bytes may become a tensor of many
/// megabytes, which no other credit counts.
const STAGED_TENSOR_BYTES: u64 = 512 << 20;

impl Stager {
    /// Returns how many entries may be staged for the memory that their inputs take.
    fn most_staged(&self) -> u32 {
        match self {
            // Their bytes are counted as they are.
            Self::Tensors(_) => u32::MAX,
            Self::Pictures(stager) => {
                let most = STAGED_TENSOR_BYTES / stager.most_input_bytes().max(1);
                u32::try_from(most).unwrap_or(u32::MAX)
            }
        }
    }

    /// Turns a request's inputs into what runs.
    ///
    /// # Errors
    /// `InvalidArgument` or `TooLarge`: the caller's mistakes, all of them found here.
    pub(crate) fn stage(
        &self,
        inputs: Vec<Tensor>,
        options: PictureOptions,
    ) -> Result<Staged, InferError> {
        match self {
            Self::Tensors(spec) => {
                // The gateway, which knows the name, has checked them already.
                let model = "this worker's";
                CheckedInputs::check(Target { model, spec }, inputs).map(Staged::Tensors)
            }
            Self::Pictures(stager) => {
                let began = Instant::now();
                let mut staged = stager.stage(only_picture(inputs)?, options)?;
                staged.decode = began.elapsed();
                Ok(Staged::Picture(Arc::new(staged)))
            }
        }
    }
}

/// Returns the picture of a request: the one element of the `BYTES` input `image`, or its bytes as
/// they are when sent as `UINT8`.
fn only_picture(inputs: Vec<Tensor>) -> Result<bytes::Bytes, InferError> {
    let n_inputs = inputs.len();
    let mut inputs = inputs.into_iter();
    match (inputs.next(), n_inputs) {
        (Some(input), 1) if input.name == PICTURE_INPUT => match input.datatype {
            model_store::DataType::Uint8 => Ok(input.data),
            model_store::DataType::Bytes if input.elements()? == 1 => {
                input.check_length()?;
                input
                    .bytes_elements()
                    .next()
                    .ok_or_else(|| InferError::internal("an element is missing"))
            }
            _ => Err(InferError::invalid(format!(
                "input `{PICTURE_INPUT}`: expected one BYTES element or UINT8, got {} {:?}",
                input.datatype, input.shape
            ))),
        },
        _ => Err(InferError::invalid(format!(
            "expected one input `{PICTURE_INPUT}` with an encoded picture, got {n_inputs} inputs"
        ))),
    }
}

impl Staged {
    pub(crate) fn items(&self) -> u32 {
        match self {
            Self::Tensors(checked) => checked.items,
            Self::Picture(_) => 1,
        }
    }

    pub(crate) fn bucket(&self) -> u64 {
        match self {
            Self::Tensors(checked) => checked.bucket,
            Self::Picture(picture) => picture.bucket(),
        }
    }

    pub(crate) fn decode_time(&self) -> Duration {
        match self {
            Self::Tensors(_) => Duration::ZERO,
            Self::Picture(picture) => picture.decode,
        }
    }
}

// === running ===

impl Runner {
    /// Runs a batch of one bucket; the results are in its order.
    ///
    /// # Errors
    /// What failed, for the batch as a whole.
    pub(crate) fn run(&mut self, batch: &[Staged]) -> Result<Vec<Finish>, InferError> {
        match self {
            Self::Tensors(runner) => runner.run(&tensors_of(batch)?),
            Self::Pictures(runner) => runner.run(&pictures_of(batch)?),
            Self::Masks(runner) => runner.run(&pictures_of(batch)?),
        }
    }
}

fn tensors_of(batch: &[Staged]) -> Result<Vec<&CheckedInputs>, InferError> {
    let tensors = batch.iter().map(|staged| match staged {
        Staged::Tensors(checked) => Ok(checked),
        Staged::Picture(_) => Err(InferError::internal(
            "a picture was staged for a tensor model",
        )),
    });
    tensors.collect()
}

fn pictures_of(batch: &[Staged]) -> Result<Vec<Arc<StagedPicture>>, InferError> {
    let pictures = batch.iter().map(|staged| match staged {
        Staged::Picture(picture) => Ok(Arc::clone(picture)),
        Staged::Tensors(_) => Err(InferError::internal(
            "tensors were staged for a picture model",
        )),
    });
    pictures.collect()
}

/// A place for each instance.
type Slots = Arc<[OnceLock<Arc<Mutex<Instance>>>]>;

/// What instances are started with.
struct Starter {
    instances: Slots,
    batches: Batches,
    post: PostProcessing,
}

impl Starter {
    /// Gives an instance its place and its thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    fn start(&self, index: usize, runner: Runner) -> Result<(), InferError> {
        let instance = Arc::new(Mutex::new(Instance::new(runner, self.post.clone())));
        if let Some(place) = self.instances.get(index) {
            // Each place is filled once.
            let _ = place.set(Arc::clone(&instance));
        }
        instance::spawn(index, instance, Arc::clone(&self.batches))
            .map_err(|error| InferError::internal(format!("no thread for an instance: {error}")))
    }
}

impl Model {
    /// Gives the first instance its thread, which is all that readiness needs. The others are loaded
    /// beside: until they are, theirs are slots whose batches wait for the first.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(loaded: Loaded, assignment: &Assignment) -> Result<Self, InferError> {
        let threads = cores(assignment.threads);
        let slots = loaded.spec.instances.max(1) as usize;
        let (batches, receiver) = mpsc::channel(slots + MAX_NAMED_AHEAD);
        let starter = Starter {
            instances: (0..slots).map(|_| OnceLock::new()).collect(),
            batches: Arc::new(Mutex::new(receiver)),
            post: PostProcessing {
                pool: tokio::runtime::Handle::current(),
                room: Arc::new(Semaphore::new(2 * threads + loaded.spec.max_batch as usize)),
            },
        };
        let instances = Arc::clone(&starter.instances);
        starter.start(0, loaded.runner)?;
        if slots > 1 {
            let mut load_another = loaded.load_another;
            let others = priority::spawn_run("load".to_owned(), move || {
                let others = (1..slots).try_for_each(|index| {
                    let runner = instance::caught("loading", &mut load_another)?;
                    starter.start(index, runner)
                });
                // Those there are do the work of all.
                if let Err(error) = others {
                    tracing::error!(%error, "an instance can't be loaded, there are fewer");
                }
            });
            if let Err(error) = others {
                tracing::error!(%error, "no thread to load instances, there are fewer");
            }
        }
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        let credits = Credits {
            slots,
            // Enough for the next batch of each slot and for every core to decode meanwhile, but
            // for inputs so large that fewer fill the memory.
            stage_entries: (2 * slots)
                .saturating_mul(loaded.spec.max_batch)
                .max(2 * threads)
                .min(loaded.stager.most_staged())
                .max(slots),
            stage_bytes: MAX_ENTRY_BYTES,
            stage_pixels: assignment.max_pixels,
        };
        Ok(Self {
            spec: loaded.spec,
            stager: loaded.stager,
            instances,
            batches,
            credits,
            quiet: Quiet::new(cores(assignment.threads))?,
        })
    }

    /// Returns where bulk is prepared: it must not take the processor from what somebody waits for.
    pub(crate) const fn quiet(&self) -> &Quiet {
        &self.quiet
    }

    pub(crate) const fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    pub(crate) const fn credits(&self) -> Credits {
        self.credits
    }

    pub(crate) const fn stages_pictures(&self) -> bool {
        matches!(self.stager, Stager::Pictures(_))
    }

    pub(crate) fn stage(
        &self,
        inputs: Vec<Tensor>,
        options: PictureOptions,
    ) -> Result<Staged, InferError> {
        self.stager.stage(inputs, options)
    }

    /// Runs a batch on the caller's thread, where an instance is idle and its runs are so short that
    /// waking its thread would cost more; gives the batch back otherwise.
    pub(crate) fn run_short(
        &self,
        name: String,
        entries: Vec<BatchEntry>,
    ) -> Result<Vec<Event>, (String, Vec<BatchEntry>)> {
        let mut idle = self
            .instances
            .iter()
            .filter_map(|instance| instance.get()?.try_lock().ok());
        match idle.find(|instance| instance.is_short()) {
            Some(mut instance) => Ok(instance.run(name, entries)),
            None => Err((name, entries)),
        }
    }

    /// Hands a batch to the instances; gives it back when more are waiting than there are slots for.
    pub(crate) fn submit(&self, batch: Batch) -> Result<(), Batch> {
        self.batches
            .try_send(batch)
            .map_err(|error| error.into_inner())
    }
}
