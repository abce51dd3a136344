//! Real videos through the real ffmpeg.

#![expect(
    clippy::unwrap_used,
    reason = "what the helpers of a test do not expect fails the test"
)]

mod broken;
mod frames;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use gateway_video::{Container, Ffmpeg, Frame, Frames, Wanted};

/// Everything, within what the tests' videos have.
const ALL: Wanted = Wanted {
    fps: None,
    max_pixels: 10_000_000,
    max_bytes: 64 << 20,
    max_frames: 10_000,
};

/// A video in a folder of its own, and what decodes it.
struct Site {
    folder: tempfile::TempDir,
    ffmpeg: Ffmpeg,
}

impl Site {
    /// Returns a place with this video from the shared ones, or says that the test is skipped.
    fn with(name: &str) -> Option<Self> {
        let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/media");
        if !media.is_dir() {
            return skip("there is no ../shared with videos beside the sources");
        }
        let ffmpeg = Ffmpeg::new(None).unwrap();
        if let Err(missing) = ffmpeg.find() {
            return skip(&missing.to_string());
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(media.join(name), folder.path().join("input")).unwrap();
        Some(Self { folder, ffmpeg })
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    async fn open(&self, wanted: Wanted) -> Frames {
        self.open_file("input", wanted).await
    }

    async fn open_file(&self, file: &str, wanted: Wanted) -> Frames {
        let content = std::fs::read(self.folder.path().join(file)).unwrap();
        let container = Container::sniff(&content).unwrap();
        let place = (self.folder.path(), file);
        let frames = Frames::open(&self.ffmpeg, place, container, wanted).await;
        frames.unwrap()
    }

    /// Has ffmpeg make another video in the folder.
    fn make(&self, arguments: &[&str]) {
        let mut command = std::process::Command::new(self.ffmpeg.find().unwrap());
        command.args(["-v", "error", "-nostdin"]).args(arguments);
        assert!(
            command
                .current_dir(self.folder.path())
                .status()
                .unwrap()
                .success()
        );
    }
}

/// Takes all frames, up to where they end, and how.
async fn all(mut frames: Frames) -> (Vec<Frame>, Result<(), String>) {
    let mut taken = Vec::new();
    loop {
        match frames.next_len().await {
            Ok(None) => return (taken, Ok(())),
            Ok(Some(len)) => {
                let frame = frames.read().await.unwrap();
                assert_eq!(frame.picture.len(), len);
                taken.push(frame);
            }
            Err(error) => return (taken, Err(error)),
        }
    }
}

/// Says why a test can't run here; with `CI=true` that fails it.
fn skip<T>(reason: &str) -> Option<T> {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "skipped, which must not be with CI=true: {reason}"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "{test} is skipped: {reason}");
    None
}
