//! The committed messages are what `proto-spec/conduit.proto` says.
//!
//! `CONDUIT_BLESS=1 cargo test --test proto_codegen` writes them anew.
#![allow(clippy::disallowed_methods, reason = "a test reads its own switch")]

use std::fs;
use std::path::Path;

#[test]
fn the_generated_messages_are_those_of_the_proto_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a folder");
    let descriptors =
        protox::compile(["conduit.proto"], [root.join("proto-spec")]).expect("a valid proto file");
    prost_build::Config::new()
        .out_dir(out.path())
        .bytes(["."])
        .compile_fds(descriptors)
        .expect("generated code");
    let generated = fs::read_to_string(out.path().join("conduit.v1.rs")).expect("one file");
    let committed = root.join("src/wire/messages.rs");
    if std::env::var_os("CONDUIT_BLESS").is_some() {
        fs::write(&committed, &generated).expect("the file written");
    }
    let current = fs::read_to_string(&committed).expect("the committed file");
    assert!(
        current == generated,
        "src/wire/messages.rs is stale: run CONDUIT_BLESS=1 cargo test --test proto_codegen"
    );
}
