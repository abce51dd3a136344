//! A video made of pictures.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::ChildStdin;

use crate::ffmpeg::{Ffmpeg, n_threads};
use crate::process::{Process, reason};

/// What makes an MP4 that browsers show, the best first; the last one is in every ffmpeg.
const ENCODERS: [&[&str]; 3] = [
    &["libx264", "-preset", "veryfast", "-crf", "23"],
    &["libopenh264", "-b:v", "4M"],
    &["mpeg4", "-q:v", "4"],
];

/// A video that is being made. Dropped before its end, it ends, and what there is of it is no video.
#[derive(Debug)]
pub struct Film {
    process: Process,
    /// What it is given: an SMJPEG, which is JPEGs with their times.
    stdin: ChildStdin,
    is_begun: bool,
    max_bytes: u64,
}

impl Film {
    /// Begins the video in a file of a folder, an MP4 of at most so many bytes.
    ///
    /// # Errors
    /// When ffmpeg is not there or can't be started.
    pub async fn begin(
        ffmpeg: &Ffmpeg,
        (folder, file): (&Path, &str),
        max_bytes: u64,
    ) -> io::Result<Self> {
        let encoder = encoder(ffmpeg, folder).await?;
        let threads = n_threads();
        let most = max_bytes.to_string();
        let output = format!("file:{file}");
        let head = [
            "-hide_banner",
            "-nostats",
            "-loglevel",
            "repeat+level+info",
            "-protocol_whitelist",
            "file,pipe",
            "-f",
            "smjpeg",
            "-i",
            "pipe:0",
            // Each picture at its time, none twice.
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            "1:1000",
            // Every encoder takes even sides only.
            "-vf",
            "pad=ceil(iw/2)*2:ceil(ih/2)*2",
            "-pix_fmt",
            "yuv420p",
            "-threads",
            &threads,
            "-c:v",
        ];
        let tail = [
            "-fs",
            &most,
            "-movflags",
            "+faststart",
            "-f",
            "mp4",
            "-y",
            &output,
        ];
        let arguments = head.iter().chain(encoder).chain(&tail);
        let mut process = ffmpeg.start(folder, arguments).await?;
        let stdin = process.stdin().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            process,
            stdin,
            is_begun: false,
            max_bytes,
        })
    }

    /// Adds a JPEG that is shown from so many seconds on, later than those before.
    ///
    /// # Errors
    /// Why it can't be made.
    pub async fn add(&mut self, time: f64, jpeg: &[u8]) -> Result<(), String> {
        let written = self.write(time, jpeg).await;
        match written {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(&error.to_string()).await),
        }
    }

    async fn write(&mut self, time: f64, jpeg: &[u8]) -> io::Result<()> {
        let size = u32::try_from(jpeg.len()).map_err(io::Error::other)?;
        let milliseconds = (time * 1e3).round() as u32;
        let mut head = Vec::new();
        if !self.is_begun {
            head.extend(header());
            self.is_begun = true;
        }
        head.extend(b"vidD");
        head.extend(milliseconds.to_be_bytes());
        head.extend(size.to_be_bytes());
        self.stdin.write_all(&head).await?;
        self.stdin.write_all(jpeg).await
    }

    /// Ends the video, whose file is whole then.
    ///
    /// # Errors
    /// Why it can't be made.
    pub async fn finish(mut self) -> Result<(), String> {
        if let Err(error) = self.stdin.write_all(b"DONE").await {
            return Err(self.failed(&error.to_string()).await);
        }
        drop(self.stdin);
        let (status, said) = self
            .process
            .end()
            .await
            .map_err(|error| failed(&error.to_string()))?;
        match status.success() {
            true => Ok(()),
            false => Err(failed(&reason(status, &said))),
        }
    }

    /// Says why it takes nothing more: better than that is what it says itself.
    async fn failed(&mut self, error: &str) -> String {
        match self.process.end().await {
            Ok((status, said)) if !status.success() => failed(&reason(status, &said)),
            Ok(_) => failed(&format!("it has more than {} bytes", self.max_bytes)),
            Err(_) => failed(error),
        }
    }
}

fn failed(what: &str) -> String {
    format!("the drawn video can't be made: {what}")
}

/// What an SMJPEG begins with: version 0, no length, one track of JPEGs whose size they say themselves
/// (`docs/smjpeg.txt` of Loki's smjpeg).
fn header() -> impl Iterator<Item = u8> {
    let track = [12_u32, 0, 0].map(u32::to_be_bytes);
    let head = b"\0\nSMJPEG\0\0\0\0\0\0\0\0_VID".iter().copied();
    let track = head.chain(track.into_iter().flatten());
    track.chain(b"JFIFHEND".iter().copied())
}

/// Returns the arguments of the best encoder that there is.
async fn encoder(ffmpeg: &Ffmpeg, folder: &Path) -> io::Result<&'static [&'static str]> {
    let mut process = ffmpeg.start(folder, ["-hide_banner", "-encoders"]).await?;
    let mut listed = String::new();
    if let Some(stdout) = process.stdout() {
        stdout.take(1 << 20).read_to_string(&mut listed).await?;
    }
    let is_listed = |name: &str| listed.split_whitespace().any(|word| word == name);
    let [better @ .., last] = &ENCODERS;
    let found = better
        .iter()
        .find(|encoder| encoder.first().is_some_and(|name| is_listed(name)));
    Ok(found.unwrap_or(last))
}
