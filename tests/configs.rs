//! The files in `examples/configs`: each is sound, and there are exactly four of them.

use std::path::{Path, PathBuf};

use conduit::config::{Environment, FileKind, Validated, generate, validate};
use conduit::tunnel::{Direction, Options, Protocol, TunnelSpec};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/configs")
}

fn read(name: &str) -> Validated {
    let environment = Environment::capture([("CONDUIT_HOME", "/nowhere")]);
    validate(&folder().join(name), None, &environment)
        .unwrap_or_else(|errors| panic!("{name}:\n{errors}"))
}

#[test]
fn every_example_is_sound_and_there_are_four() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("examples/configs")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert_eq!(names, ["conduit-dev.toml", "conduit-prod.toml", "conduit.toml", "router.toml"]);
    let mut tunnels = 0;
    for name in &names {
        match read(name) {
            Validated::Client(loaded) => {
                assert!(loaded.config.router.is_some(), "{name}");
                tunnels += loaded.config.tunnels.len();
            }
            Validated::Router(loaded) => {
                assert_eq!(name, "router.toml");
                assert_eq!(loaded.config.advertise.len(), 1);
            }
        }
    }
    assert_eq!(tunnels, 5);
}

/// The annotated examples show what `config generate` writes, and nothing else.
#[test]
fn the_annotated_examples_are_generated() {
    let tunnel = TunnelSpec {
        name: "web".parse().expect("a name"),
        direction: Direction::Forward,
        protocol: Protocol::Tcp,
        bind: "0.0.0.0:80".parse().expect("a bind"),
        source: "10.2.0.2:8080".parse().expect("a target"),
        options: Options::default(),
    };
    let host: &[(&str, &str)] = &[("router.host", "203.0.113.7")];
    let advertise: &[(&str, &str)] = &[("listen.advertise", "203.0.113.7:9999")];
    for (kind, set, tunnels) in
        [(FileKind::Client, host, vec![tunnel]), (FileKind::Router, advertise, Vec::new())]
    {
        let generated = generate(kind, set, &tunnels).expect("legal");
        let example = folder().join(kind.file_name());
        let written = std::fs::read_to_string(&example).unwrap_or_default();
        if written.replace("\r\n", "\n") != generated {
            let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kind.file_name());
            std::fs::write(&fresh, &generated).expect("written");
            let (fresh, example) = (fresh.display(), example.display());
            panic!("the schema has changed: look at the difference, then cp {fresh} {example}");
        }
    }
}
