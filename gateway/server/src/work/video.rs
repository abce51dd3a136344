//! A video on its way through a model: frames in, a line for each out, and a video with what is found
//! drawn into it where that is wanted.
//!
//! Frames are looked at as bulk, as many at a time as keep the workers busy, and written down in their
//! order. What there is of a video besides lies in files, so memory does not depend on its length.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use gateway_oscar::{Kind, Service as Definition};
use gateway_video::{Container, Ffmpeg, Film, Frame, Frames, Missing, Wanted};
use http::StatusCode;
use tempfile::TempDir;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter};
use tokio::sync::Semaphore;
use workers_protocol::{DrawFormat, InferError};

use super::output::{self, Made, NewResult, keep};
use super::stage::Source;
use super::{Job, Verdict};
use crate::budget::Reservation;
use crate::oscar::{ModelService, Service};
use crate::rest::{ApiError, FoundInBulk, Front, bulk};

/// Names that videos have. What is in there decides; this only whether it is read into memory to see.
const SUFFIXES: [&str; 7] = [".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".qt"];

/// Larger objects are never read into memory.
const MAX_IN_MEMORY: u64 = 64 << 20;

/// Frames of a video in work at a time, at most and at least: the scheduler asks for two batches for
/// each slot.
const MOST_AHEAD: usize = 64;
const LEAST_AHEAD: usize = 2;

/// Their bytes, as long as they are more than the least.
const AHEAD_BYTES: usize = 64 << 20;

/// Frames of a video: a day of ten a second.
const MAX_FRAMES: u64 = 1_000_000;

/// How long a frame waits for room, or for somebody to look at it, and how often it tries.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(20);

/// How often a frame is tried whose workers die, each time with two of them: all before it would have
/// to be looked at again with the job.
const MAX_TRIES: u32 = 3;

/// What videos need.
#[derive(Debug)]
pub(crate) struct Videos {
    ffmpeg: Ffmpeg,
    /// With a folder for each that is worked on.
    folder: PathBuf,
    /// For those that are worked on.
    room: Semaphore,
    max_bytes: u64,
}

/// A video that was fetched, in a folder that goes with it.
#[derive(Debug)]
pub(super) struct Video {
    folder: TempDir,
    container: Container,
}

/// What comes out of a video.
struct Record {
    lines: BufWriter<File>,
    film: Option<Film>,
    n_frames: u64,
    time: f64,
    bytes_left: u64,
}

/// A frame that was looked at.
struct Seen {
    number: u64,
    time: f64,
    found: FoundInBulk,
}

/// Frames, each with room for it.
struct Feed<'a> {
    front: &'a Front,
    frames: Frames,
    /// For the next one.
    room: Option<Reservation>,
    /// Frames that may be in work at a time, going by the last one.
    most_ahead: usize,
}

impl Videos {
    /// Makes the folder for videos, or empties it of what a gateway has left that was killed. Blocks.
    ///
    /// # Errors
    /// When it can't.
    pub(crate) fn open(
        data: &Path,
        ffmpeg: Option<PathBuf>,
        n_videos: usize,
        max_bytes: u64,
    ) -> io::Result<Self> {
        let folder = data.join("videos");
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self {
            ffmpeg: Ffmpeg::new(ffmpeg)?,
            folder: folder.canonicalize()?,
            room: Semaphore::new(n_videos),
            max_bytes,
        })
    }

    /// Says of a service that may get videos whether they can't be read.
    ///
    /// # Errors
    /// `InvalidArgument` where it gets nothing else.
    pub(crate) fn check(&self, definition: &Definition) -> Result<Option<Missing>, InferError> {
        let Err(missing) = self.ffmpeg.find() else {
            return Ok(None);
        };
        if definition.kind() != Kind::Model || definition.input.is_empty() {
            return Ok(None);
        }
        let is_only_videos = definition.input.iter().all(|input| {
            !input.suffix.is_empty() && input.suffix.iter().all(|suffix| is_named_so(suffix))
        });
        match is_only_videos {
            true => Err(InferError::invalid(missing.to_string())),
            false => Ok(Some(missing)),
        }
    }
}

fn is_named_so(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_suffix =
        |suffix: &&str| name.ends_with(*suffix) || suffix.strip_prefix('.') == Some(&name);
    SUFFIXES.iter().any(is_suffix)
}

/// Whether an object is looked at on the disk first.
pub(crate) fn is_likely(name: &str, size: u64) -> bool {
    size > MAX_IN_MEMORY || is_named_so(name)
}

impl Video {
    /// Fetches an object into a folder, if it is a video.
    ///
    /// # Errors
    /// As [`Source::fetch`].
    async fn fetch(
        front: &Front,
        definition: &Definition,
        source: Source<'_>,
    ) -> Result<Option<Self>, Verdict> {
        let videos = &front.videos;
        let folder = tempfile::Builder::new().tempdir_in(&videos.folder);
        let folder = folder.map_err(|error| not_kept(&error))?;
        let file = folder.path().join(INPUT);
        source
            .download(front, definition, videos.max_bytes, &file)
            .await?;
        let mut head = Vec::new();
        let file = File::open(&file).await.map_err(|error| not_kept(&error))?;
        let mut file = file.take(Container::HEAD as u64);
        let read = file.read_to_end(&mut head).await;
        read.map_err(|error| not_kept(&error))?;
        Ok(Container::sniff(&head).map(|container| Self { folder, container }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Files in the folder of a video.
const INPUT: &str = "input";
const LINES: &str = "frames.jsonl";
const FILM: &str = "drawn.mp4";

/// Has a model look at an object that is a video; of one that is none, nothing is done.
///
/// # Errors
/// What becomes of the job.
pub(super) async fn perform(
    front: &Front,
    service: &Arc<Service>,
    model: &ModelService,
    job: &Job,
    source: Source<'_>,
) -> Result<Option<String>, Verdict> {
    let videos = &front.videos;
    let room = videos.room.acquire().await;
    let _room = room.map_err(|error| Verdict::Postponed {
        why: error.to_string(),
    })?;
    let definition = &service.definition;
    let Some(video) = Video::fetch(front, definition, source).await? else {
        return Ok(None);
    };
    let film = format!("{}.mp4", source.name);
    let is_drawn = model.video.draw && output::is_wanted(definition, &film);
    let record = look_at_all(front, service, model, &video, is_drawn).await?;
    let mut results = vec![NewResult {
        name: format!("{}.jsonl", source.name),
        media: "application/jsonl",
        content: Made::File(video.path(LINES)),
    }];
    if is_drawn {
        results.push(NewResult {
            name: film,
            media: "video/mp4",
            content: Made::File(video.path(FILM)),
        });
    }
    let kept = keep(front, definition, &job.name, &results).await?;
    let kept: String = kept.iter().map(|kept| format!("{kept}\n")).collect();
    let (n_frames, time) = (record.n_frames, record.time);
    Ok(Some(format!(
        "{n_frames} frames, the last one at {time} s\n{kept}"
    )))
}

/// Has a model look at all frames of a video, and writes down what it finds.
async fn look_at_all(
    front: &Front,
    service: &Arc<Service>,
    model: &ModelService,
    video: &Video,
    is_drawn: bool,
) -> Result<Record, Verdict> {
    let videos = &front.videos;
    let mut model = model.clone();
    model.options.draw = is_drawn.then_some(DrawFormat::Jpeg);
    model.options.crop = None;
    let wanted = Wanted {
        fps: model.video.fps,
        max_pixels: front.limits.max_pixels,
        // As of every other picture.
        max_bytes: usize::try_from(front.limits.max_body).unwrap_or(usize::MAX),
        max_frames: MAX_FRAMES,
    };
    let place = (video.folder.path(), INPUT);
    let frames = Frames::open(&videos.ffmpeg, place, video.container, wanted).await;
    let mut feed = Feed {
        front,
        frames: frames.map_err(|error| not_started(&error))?,
        room: None,
        most_ahead: LEAST_AHEAD,
    };
    let mut record = Record::begin(videos, video, is_drawn).await?;
    let mut looking = FuturesOrdered::new();
    let mut is_over = false;
    loop {
        let has_room = looking.len() < feed.most_ahead;
        tokio::select! {
            biased;
            Some(seen) = looking.next(), if !looking.is_empty() => record.add(seen?).await?,
            next = feed.next(), if has_room && !is_over => match next? {
                Some((frame, room)) => {
                    looking.push_back(look(front, service, &model, frame, room));
                }
                None => is_over = true,
            },
            else => break,
        }
    }
    record.finish().await
}

/// Has a model look at a frame, as often as nobody can, and some times more where workers die.
async fn look(
    front: &Front,
    service: &Arc<Service>,
    model: &ModelService,
    frame: Frame,
    mut room: Reservation,
) -> Result<Seen, Verdict> {
    let Frame {
        number,
        time,
        picture,
    } = frame;
    let until = Instant::now() + PATIENCE;
    let mut n_tries = 0;
    loop {
        let looked = bulk(front, service, model, (picture.clone(), room)).await;
        let error = match looked {
            Ok(found) => {
                return Ok(Seen {
                    number,
                    time,
                    found,
                });
            }
            Err(error) => error,
        };
        let may_try = if is_passing(&error) {
            Instant::now() < until
        } else {
            n_tries += 1;
            error.status().is_server_error() && n_tries < MAX_TRIES
        };
        if !may_try {
            let verdict = Verdict::of_model(&error);
            return Err(verdict.because(|why| format!("frame {number} ({time} s): {why}")));
        }
        tokio::time::sleep(PAUSE).await;
        room = take_room(front, picture.len()).await;
    }
}

fn is_passing(error: &ApiError) -> bool {
    let status = error.status();
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE
}

/// Waits until there is room for so many bytes: those who have it are answered, and give it back.
async fn take_room(front: &Front, bytes: usize) -> Reservation {
    loop {
        let mut room = front.budget.reservation();
        if room.grow(bytes as u64).is_ok() {
            return room;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Feed<'_> {
    /// Returns the next frame, if there is one. Cancel-safe.
    async fn next(&mut self) -> Result<Option<(Frame, Reservation)>, Verdict> {
        let broken = |log| Verdict::Failed {
            log,
            may_retry: false,
        };
        let Some(len) = self.frames.next_len().await.map_err(broken)? else {
            return Ok(None);
        };
        if self.room.is_none() {
            self.room = Some(take_room(self.front, len).await);
            self.most_ahead = (AHEAD_BYTES / len).clamp(LEAST_AHEAD, MOST_AHEAD);
        }
        let frame = self.frames.read().await.map_err(broken)?;
        Ok(self.room.take().map(|room| (frame, room)))
    }
}

impl Record {
    async fn begin(videos: &Videos, video: &Video, is_drawn: bool) -> Result<Self, Verdict> {
        let lines = File::create_new(video.path(LINES)).await;
        let place = (video.folder.path(), FILM);
        let film = match is_drawn {
            true => Some(Film::begin(&videos.ffmpeg, place, videos.max_bytes).await),
            false => None,
        };
        Ok(Self {
            lines: BufWriter::new(lines.map_err(|error| not_kept(&error))?),
            film: film.transpose().map_err(|error| not_started(&error))?,
            n_frames: 0,
            time: 0.0,
            bytes_left: videos.max_bytes,
        })
    }

    async fn add(&mut self, seen: Seen) -> Result<(), Verdict> {
        let Seen {
            number,
            time,
            found,
        } = seen;
        let line = line(number, time, &found.json);
        self.bytes_left = self
            .bytes_left
            .checked_sub(line.len() as u64)
            .ok_or_else(|| Verdict::Failed {
                log: format!(
                    "what is found up to frame {number} is more than a video may have (--max-video)"
                ),
                may_retry: false,
            })?;
        let written = self.lines.write_all(&line).await;
        written.map_err(|error| not_kept(&error))?;
        if let (Some(film), Some(drawing)) = (&mut self.film, found.drawing) {
            film.add(time, &drawing).await.map_err(not_drawn)?;
        }
        (self.n_frames, self.time) = (number + 1, time);
        Ok(())
    }

    async fn finish(mut self) -> Result<Self, Verdict> {
        self.lines.flush().await.map_err(|error| not_kept(&error))?;
        if let Some(film) = self.film.take() {
            film.finish().await.map_err(not_drawn)?;
        }
        Ok(self)
    }
}

/// Returns what is found in a frame as a line: an object of `/run`, with the frame before it.
fn line(number: u64, time: f64, found: &Bytes) -> Vec<u8> {
    let mut line = format!("{{\"frame\":{number},\"time\":{time},").into_bytes();
    line.extend_from_slice(found.strip_prefix(b"{").unwrap_or(found));
    line.push(b'\n');
    line
}

/// What went wrong with a file: mostly a disk that is full, for now.
fn not_kept(error: &io::Error) -> Verdict {
    Verdict::Failed {
        log: format!("the video can't be kept while it is worked on: {error}"),
        may_retry: true,
    }
}

fn not_started(error: &io::Error) -> Verdict {
    Verdict::Failed {
        log: error.to_string(),
        may_retry: error.kind() != io::ErrorKind::NotFound,
    }
}

fn not_drawn(log: String) -> Verdict {
    Verdict::Failed {
        log,
        may_retry: false,
    }
}
