//! What a synchronous call is answered of what its script left.

use std::io::{self, Cursor, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::task::OutputFile;

/// An answer, as OSCAR's clients expect it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Files were left: one in base64, or several as a zip archive in base64.
    Base64(String),
    /// None was left: what the script said. What of it is not UTF-8 is left out.
    Text(String),
}

impl Answer {
    /// Makes the answer. Takes a time in proportion to the files.
    ///
    /// # Errors
    /// When the files can't be one archive: above 4 GiB.
    pub fn new(files: &[OutputFile], log: &[u8]) -> io::Result<Self> {
        Ok(match files {
            [] => Self::Text(text(log)),
            [file] => Self::Base64(BASE64_STANDARD.encode(&file.content)),
            several => Self::Base64(BASE64_STANDARD.encode(archive(several)?)),
        })
    }
}

/// Returns what a script said as text, without what is not UTF-8.
pub fn text(log: &[u8]) -> String {
    let chunks = log.utf8_chunks();
    chunks.map(|chunk| chunk.valid()).collect()
}

/// Stored, not compressed: results are mostly pictures and archives already.
fn archive(files: &[OutputFile]) -> io::Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for file in files {
        archive.start_file(file.name.as_str(), options)?;
        archive.write_all(&file.content)?;
    }
    Ok(archive.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read as _;

    use bytes::Bytes;
    use zip::ZipArchive;

    fn file(name: &str, content: &'static [u8]) -> OutputFile {
        OutputFile {
            name: name.to_owned(),
            content: Bytes::from_static(content),
        }
    }

    #[test]
    fn without_files_the_answer_is_what_was_said() {
        let answer = Answer::new(&[], b"moo \xff\xc3\xa9\n").unwrap();
        assert_eq!(answer, Answer::Text("moo é\n".to_owned()));
    }

    #[test]
    fn one_file_is_the_answer_whatever_was_said() {
        let answer = Answer::new(&[file("a.bin", b"\0\xff")], b"noise").unwrap();
        assert_eq!(answer, Answer::Base64("AP8=".to_owned()));
    }

    #[test]
    fn several_files_are_an_archive_with_their_names() {
        let files = [file("a.txt", b"one"), file("sub/b.txt", b"two")];
        let Answer::Base64(answer) = Answer::new(&files, b"").unwrap() else {
            panic!("expected base64");
        };
        let bytes = BASE64_STANDARD.decode(answer).unwrap();
        let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
        assert_eq!(archive.len(), 2);
        for expected in &files {
            let mut content = Vec::new();
            let mut found = archive.by_name(&expected.name).unwrap();
            found.read_to_end(&mut content).unwrap();
            assert_eq!(content, expected.content);
        }
    }
}
