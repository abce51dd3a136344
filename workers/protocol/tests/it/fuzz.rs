//! What the fuzz targets do, to their seeds, to seeds that are damaged, and to any bytes.

use std::path::Path;

use proptest::prelude::*;

#[path = "../../fuzz/bodies.rs"]
mod bodies;

type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 3] = [
    ("json", bodies::json),
    ("binary", bodies::binary),
    ("messages", bodies::messages),
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let files = std::fs::read_dir(folder.join(target)).expect("there are seeds");
    let read = |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file?.path());
    let seeds: Result<Vec<_>, _> = files.map(read).collect();
    seeds.expect("seeds are files")
}

#[test]
fn seeds_pass() {
    for (target, body) in TARGETS {
        for seed in seeds(target) {
            body(&seed);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_pass(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (_, body) in TARGETS {
            body(&bytes);
        }
    }

    #[test]
    fn damaged_seeds_pass(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for (target, body) in TARGETS {
            let mut seed = which.get(&seeds(target)).clone();
            for (at, byte) in &damage {
                let at = at.index(seed.len());
                seed[at] = *byte;
            }
            body(&seed);
            seed.truncate(cut.index(seed.len()));
            body(&seed);
        }
    }
}
