//! The loaded model: what stages entries (shared by all threads), what runs them (one per
//! instance), and the batches between.

mod masks;
mod pictures;
mod predictions;
mod tensors;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model_store::{EngineKind, Manifest, ModelSpec, Task, TensorSpec};
use tokio::sync::{Semaphore, mpsc};
use workers_engine::Engine;
use workers_ort::{LoadOptions, OrtEngine, Runtime};
use workers_protocol::wire::{Credits, Event, MAX_ENTRY_BYTES, PICTURE_INPUT};
use workers_protocol::{CheckedInputs, InferError, PictureOptions, Tensor};
use workers_vision::Limits;

use crate::instance::{self, Batch, BatchEntry, Instance, PostProcessing};
use masks::MaskRunner;
use pictures::{PictureRunner, PictureStager, StagedPicture};
use tensors::TensorRunner;

/// Items of a batch where neither graph nor manifest says.
const DEFAULT_MAX_BATCH: u32 = 16;

/// What to load, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The version's folder.
    pub(crate) model: PathBuf,
    /// The folders of its stages, in order.
    pub(crate) stages: Vec<PathBuf>,
    /// Cores that may be used.
    pub(crate) threads: usize,
    pub(crate) limits: Limits,
}

/// A loaded model, before its instances have threads.
pub(crate) struct Loaded {
    pub(crate) spec: ModelSpec,
    pub(crate) stager: Stager,
    pub(crate) runners: Vec<Runner>,
}

/// A loaded model, running.
pub(crate) struct Model {
    spec: ModelSpec,
    stager: Stager,
    instances: Vec<Arc<Mutex<Instance>>>,
    batches: mpsc::Sender<Batch>,
    credits: Credits,
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

/// One version's folder, and an engine for each instance.
struct Part {
    manifest: Manifest,
    folder: PathBuf,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    engines: Vec<Box<dyn Engine>>,
}

impl Loaded {
    /// Loads a version and its stages.
    ///
    /// # Errors
    /// A sentence that says why the version can't be served, or can't be here.
    pub(crate) fn load(runtime: &Runtime, source: &Source) -> Result<Self, InferError> {
        let manifest = read_manifest(&source.model)?;
        match manifest.task {
            Some(Task::FaceMaskDetection) => Self::load_masks(runtime, source, &manifest),
            Some(task) => {
                let part = Part::load(runtime, &source.model, manifest, source.threads)?;
                let spec = part.spec(Some(task));
                let stager = PictureStager::new(&part, task, source.limits, None)?;
                let stager = Arc::new(stager);
                let runners = part
                    .engines
                    .into_iter()
                    .map(|engine| Runner::Pictures(PictureRunner::new(engine, Arc::clone(&stager))))
                    .collect();
                Ok(Self {
                    spec,
                    stager: Stager::Pictures(stager),
                    runners,
                })
            }
            None => {
                let part = Part::load(runtime, &source.model, manifest, source.threads)?;
                let spec = part.spec(None);
                let runners = part
                    .engines
                    .into_iter()
                    .map(|engine| Runner::Tensors(TensorRunner::new(engine)))
                    .collect();
                Ok(Self {
                    stager: Stager::Tensors(spec.clone()),
                    spec,
                    runners,
                })
            }
        }
    }

    fn load_masks(
        runtime: &Runtime,
        source: &Source,
        manifest: &Manifest,
    ) -> Result<Self, InferError> {
        let ([faces, masks], [face_stage, mask_stage]) = (&source.stages[..], &manifest.stages[..])
        else {
            return Err(InferError::invalid(format!(
                "task face-mask-detection: expected two stages, a face detector and a classifier, got {}",
                manifest.stages.len()
            )));
        };
        let mut face_manifest = read_manifest(faces)?;
        face_manifest.output.score = face_stage.score.or(face_manifest.output.score);
        face_manifest.output.iou = face_stage.iou.or(face_manifest.output.iou);
        let faces = Part::load(runtime, faces, face_manifest, source.threads)?;
        let masks = Part::load(runtime, masks, read_manifest(masks)?, source.threads)?;

        let task = Task::FaceMaskDetection;
        let mut spec = faces.spec(Some(task));
        spec.outputs.clone_from(&masks.outputs);
        if let Some(max) = manifest.batch.max {
            spec.max_batch = spec.max_batch.min(max);
        }
        let classifier = Arc::new(masks::Classify::new(&masks, mask_stage)?);
        let stager =
            PictureStager::new(&faces, task, source.limits, Some(Arc::clone(&classifier)))?;
        let stager = Arc::new(stager);
        let runners: Vec<Runner> = faces
            .engines
            .into_iter()
            .zip(masks.engines)
            .map(|(faces, masks)| {
                Runner::Masks(MaskRunner::new(
                    faces,
                    masks,
                    Arc::clone(&stager),
                    Arc::clone(&classifier),
                ))
            })
            .collect();
        spec.instances = u32::try_from(runners.len()).unwrap_or(u32::MAX);
        Ok(Self {
            spec,
            stager: Stager::Pictures(stager),
            runners,
        })
    }
}

impl Part {
    fn load(
        runtime: &Runtime,
        folder: &Path,
        manifest: Manifest,
        threads: usize,
    ) -> Result<Self, InferError> {
        let file = manifest
            .model_file(folder)
            .map_err(|error| InferError::invalid(error.to_string()))?;
        let count = manifest.instances.count.unwrap_or(1).max(1);
        let threads = manifest.instances.threads.map_or_else(
            || (threads / count as usize).max(1),
            |threads| usize::try_from(threads).unwrap_or(1),
        );
        let options = LoadOptions {
            device: manifest.device,
            threads,
            inputs: &manifest.inputs,
            outputs: &manifest.outputs,
        };
        let engines = (0..count)
            .map(|_| match manifest.engine {
                Some(EngineKind::Onnx) => OrtEngine::load(runtime, &file, &options),
                None => Err(InferError::invalid("model.yaml has no `engine`")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let first = engines
            .first()
            .ok_or_else(|| InferError::internal("no instance"))?;
        let (inputs, outputs) = (first.inputs().to_vec(), first.outputs().to_vec());
        let engines = engines
            .into_iter()
            .map(|engine| Box::new(engine) as Box<dyn Engine>)
            .collect();
        Ok(Self {
            manifest,
            folder: folder.to_owned(),
            inputs,
            outputs,
            engines,
        })
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
            instances: u32::try_from(self.engines.len()).unwrap_or(u32::MAX),
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
            Self::Tensors(spec) => CheckedInputs::check(spec, inputs).map(Staged::Tensors),
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

impl Model {
    /// Gives each instance its thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        loaded: Loaded,
        threads: usize,
        limits: Limits,
    ) -> Result<Self, InferError> {
        let slots = loaded.runners.len();
        let (batches, receiver) = mpsc::channel(2 * slots);
        let receiver = Arc::new(Mutex::new(receiver));
        let post = PostProcessing {
            pool: tokio::runtime::Handle::current(),
            room: Arc::new(Semaphore::new(2 * threads + loaded.spec.max_batch as usize)),
        };
        let instances: Vec<_> = loaded
            .runners
            .into_iter()
            .map(|runner| Arc::new(Mutex::new(Instance::new(runner, post.clone()))))
            .collect();
        for (index, instance) in instances.iter().enumerate() {
            instance::spawn(index, Arc::clone(instance), Arc::clone(&receiver)).map_err(
                |error| InferError::internal(format!("no thread for an instance: {error}")),
            )?;
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
            stage_pixels: limits.max_pixels,
        };
        Ok(Self {
            spec: loaded.spec,
            stager: loaded.stager,
            instances,
            batches,
            credits,
        })
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
        entries: Vec<BatchEntry>,
    ) -> Result<Vec<Event>, Vec<BatchEntry>> {
        let mut idle = self.instances.iter().filter_map(|i| i.try_lock().ok());
        match idle.find(|instance| instance.is_short()) {
            Some(mut instance) => Ok(instance.run(entries)),
            None => Err(entries),
        }
    }

    /// Hands a batch to the instances; gives it back when more are waiting than there are slots for.
    pub(crate) fn submit(&self, batch: Batch) -> Result<(), Batch> {
        self.batches
            .try_send(batch)
            .map_err(|error| error.into_inner())
    }
}
