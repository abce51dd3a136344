//! Videos by the program ffmpeg: which bytes are one, its frames one by one, and a video made of
//! pictures.
//!
//! A video is hostile, and so is what ffmpeg makes of it. Each ffmpeg is a process of its own, with
//! nothing of the gateway's environment, that reads the one file that it is given, by the one demuxer
//! that its first bytes name, within limits of memory and of processor time. It ends with the gateway,
//! and when it is dropped.
//!
//! A frame comes as a BMP, which costs least of what a worker reads and loses nothing. Processor time
//! of decoding vtest.avi (768 × 576, MPEG-4) and handing its frames over, in ms a frame:
//!
//! | none | BMP | PPM | JPEG, quality 2 | PNG |
//! |---|---|---|---|---|
//! | 1.0 | 3.0 | 2.6 | 8.3 | 66 |

mod container;
mod ffmpeg;
mod film;
mod frames;
mod process;

pub use container::Container;
pub use ffmpeg::{Ffmpeg, Missing};
pub use film::Film;
pub use frames::{Frame, Frames, Wanted};
