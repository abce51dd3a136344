//! The committed code is what the committed schemas generate.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let schemas = ["open_inference.proto", "health.proto"];
    let schemas = protox::compile(schemas, [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .compile_fds(schemas)
        .unwrap();

    for (package, committed) in [("inference", "oip"), ("grpc.health.v1", "health")] {
        let generated = out.path().join(format!("{package}.rs"));
        let generated = std::fs::read_to_string(generated).unwrap();
        let committed = root.join(format!("src/{committed}.rs"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&committed, &generated).unwrap();
        }
        assert!(
            std::fs::read_to_string(&committed).unwrap() == generated,
            "{} is not what the schemas in proto generate: run this test with UPDATE=1",
            committed.display()
        );
    }
}
