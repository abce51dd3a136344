//! The committed code is what the committed schema generates.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let schema = protox::compile(["open_inference.proto"], [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .compile_fds(schema)
        .unwrap();
    let generated = std::fs::read_to_string(out.path().join("inference.rs")).unwrap();

    let committed = root.join("src/oip.rs");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&committed, &generated).unwrap();
    }
    assert!(
        std::fs::read_to_string(&committed).unwrap() == generated,
        "src/oip.rs is not what proto/open_inference.proto generates: run this test with UPDATE=1"
    );
}
