//! The committed messages are what the proto files say.
//!
//! `CONDUIT_BLESS=1 cargo test --test proto_codegen` writes them anew.
#![allow(clippy::disallowed_methods, reason = "a test reads its own switch")]

use std::fs;
use std::path::Path;

#[test]
fn the_generated_messages_are_those_of_the_proto_files() {
    for (proto, module, committed) in [
        ("conduit.proto", "conduit.v1", "src/wire/messages.rs"),
        ("handover.proto", "conduit.handover.v1", "src/wire/handover.rs"),
    ] {
        is_current(proto, module, committed);
    }
}

fn is_current(proto: &str, module: &str, committed: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a folder");
    let descriptors =
        protox::compile([proto], [root.join("proto-spec")]).expect("a valid proto file");
    prost_build::Config::new()
        .out_dir(out.path())
        .bytes(["."])
        .compile_fds(descriptors)
        .expect("generated code");
    let generated = fs::read_to_string(out.path().join(format!("{module}.rs"))).expect("one file");
    let path = root.join(committed);
    if std::env::var_os("CONDUIT_BLESS").is_some() {
        fs::write(&path, &generated).expect("the file written");
    }
    let current = fs::read_to_string(&path).expect("the committed file");
    assert!(
        current == generated,
        "{committed} is stale: run CONDUIT_BLESS=1 cargo test --test proto_codegen"
    );
}
