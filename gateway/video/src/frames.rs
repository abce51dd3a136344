//! A video's frames, one by one.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStdout;

use crate::container::Container;
use crate::ffmpeg::{Ffmpeg, n_threads};
use crate::process::{Process, reason};

/// How long a frame may take: at a rate of one in minutes there is much to decode between two, and
/// others go first.
const PATIENCE: Duration = Duration::from_secs(600);

/// Bytes of a BMP that tell how many it has: `BM`, and its size.
const HEAD: usize = 6;

/// Which frames are wanted of a video.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Frames a second; all, as they are, where nothing is said.
    pub fps: Option<f32>,
    /// Width × height of a frame at most.
    pub max_pixels: u64,
    /// Bytes of a frame at most.
    pub max_bytes: usize,
    /// Frames at most.
    pub max_frames: u64,
}

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Counted from 0.
    pub number: u64,
    /// When it is shown, in seconds from the beginning.
    pub time: f64,
    /// A BMP, upright.
    pub picture: Bytes,
}

/// The frames of a video that is decoded as they are taken. Dropped, it ends.
#[derive(Debug)]
pub struct Frames {
    process: Process,
    stdout: ChildStdout,
    wanted: Wanted,
    /// What there is of the next frame.
    part: BytesMut,
    n_frames: u64,
    time: f64,
}

impl Frames {
    /// Opens the video in a file of a folder.
    ///
    /// # Errors
    /// When ffmpeg is not there or can't be started. Of a video that it can't read the first frame
    /// tells.
    pub async fn open(
        ffmpeg: &Ffmpeg,
        (folder, file): (&Path, &str),
        container: Container,
        wanted: Wanted,
    ) -> io::Result<Self> {
        let rate = wanted.fps.map(|fps| format!("fps={fps},"));
        let filters = format!("{}showinfo=checksum=0", rate.unwrap_or_default());
        let demuxer = container.demuxer();
        let max_pixels = wanted.max_pixels.min(i32::MAX as u64).to_string();
        let input = format!("file:{file}");
        let threads = n_threads();
        let arguments = [
            "-nostdin",
            "-hide_banner",
            "-nostats",
            "-loglevel",
            "repeat+level+info",
            // Damage ends it, where it would paint over what is missing.
            "-xerror",
            // Nothing but this file, and nothing that could name another.
            "-protocol_whitelist",
            "file,pipe",
            "-format_whitelist",
            demuxer,
            "-f",
            demuxer,
            "-max_pixels",
            &max_pixels,
            "-threads",
            &threads,
            "-i",
            &input,
            // The first video that is no cover picture, and nothing else.
            "-map",
            "0:V:0",
            "-vf",
            &filters,
            "-fps_mode",
            "passthrough",
            "-c:v",
            "bmp",
            "-pix_fmt",
            "bgr24",
            "-f",
            "image2pipe",
            "pipe:1",
        ];
        let mut process = ffmpeg.start(folder, arguments).await?;
        drop(process.stdin());
        let stdout = process.stdout().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            process,
            stdout,
            wanted,
            part: BytesMut::with_capacity(HEAD),
            n_frames: 0,
            time: 0.0,
        })
    }

    /// Waits for the next frame, and returns how many bytes it has; nothing at the end of the video.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Where the video is broken, and how; or there is too much of it.
    pub async fn next_len(&mut self) -> Result<Option<usize>, String> {
        if !self.fill(HEAD).await? {
            return self.ended().await.map(|()| None);
        }
        let Some(len) = self.len() else {
            return Err(self.at("ffmpeg gave something else than a BMP"));
        };
        let Wanted {
            max_bytes,
            max_frames,
            ..
        } = self.wanted;
        if len > max_bytes {
            let message = format!("a frame has {len} bytes, expected at most {max_bytes}");
            return Err(self.at(&message));
        }
        if self.n_frames >= max_frames {
            return Err(self.at(&format!("it has more than {max_frames} frames")));
        }
        Ok(Some(len))
    }

    /// Returns the next frame. Cancel-safe.
    ///
    /// # Errors
    /// As [`Frames::next_len`], and at the end of the video.
    pub async fn read(&mut self) -> Result<Frame, String> {
        let Some(len) = self.next_len().await? else {
            return Err(self.at("it has ended"));
        };
        if !self.fill(len).await? {
            self.ended().await?;
            return Err(self.at("ffmpeg broke off within a frame"));
        }
        // It is said before the frame is given.
        let moment = self.process.moments.recv().await;
        self.time = moment.flatten().unwrap_or(self.time);
        let picture = std::mem::replace(&mut self.part, BytesMut::with_capacity(HEAD));
        let frame = Frame {
            number: self.n_frames,
            time: self.time,
            picture: picture.freeze(),
        };
        self.n_frames += 1;
        Ok(frame)
    }

    /// Returns how many bytes the next frame has, as far as that has come.
    fn len(&self) -> Option<usize> {
        let size = self.part.strip_prefix(b"BM")?.first_chunk()?;
        let len = u32::from_le_bytes(*size) as usize;
        (len > HEAD).then_some(len)
    }

    /// Reads until there are so many bytes of the next frame; returns whether there are.
    async fn fill(&mut self, len: usize) -> Result<bool, String> {
        self.part.reserve(len.saturating_sub(self.part.len()));
        while let missing @ 1.. = len.saturating_sub(self.part.len()) {
            let mut room = (&mut self.part).limit(missing);
            let read = tokio::time::timeout(PATIENCE, self.stdout.read_buf(&mut room)).await;
            match read {
                Ok(Ok(0)) => return Ok(false),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(self.at(&format!("ffmpeg can't be heard: {error}"))),
                Err(_) => {
                    let seconds = PATIENCE.as_secs();
                    return Err(self.at(&format!("ffmpeg gave no frame within {seconds} s")));
                }
            }
        }
        Ok(true)
    }

    /// Hears how it ended, once it gives nothing more.
    async fn ended(&mut self) -> Result<(), String> {
        // It holds back what it has to say of frames that nobody takes.
        self.process.moments.close();
        let end = tokio::time::timeout(PATIENCE, self.process.end()).await;
        let end = end.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (status, said) = end.map_err(|error| self.at(&error.to_string()))?;
        // Of some that are cut short it says so, and takes that for their end.
        if status.success() && said.is_empty() {
            return match self.n_frames {
                0 => Err("the video has no frames".to_owned()),
                _ => Ok(()),
            };
        }
        Err(self.at(&reason(status, &said)))
    }

    /// Says where it is that something went wrong.
    fn at(&self, what: &str) -> String {
        match self.n_frames.checked_sub(1) {
            None => format!("the video can't be read: {what}"),
            Some(last) => format!(
                "the video can't be read beyond frame {last} ({} s): {what}",
                self.time
            ),
        }
    }
}
