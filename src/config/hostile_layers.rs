//! Clashes of file, environment and flags, and secrets in them: the row H89 of the list of hostile cases.

use std::path::Path;

use super::hostile::{client, home};
use super::*;

#[test]
fn h89_flag_over_environment_over_file_over_default() {
    let text = "[logging]\nlevel = \"warn\"\nformat = \"json\"\nkeep = 7\n";
    let path = Path::new("conduit.toml");
    let environment = Environment::capture([
        ("CONDUIT_HOME", "/h"),
        ("CONDUIT_LOGGING_LEVEL", "debug"),
        ("CONDUIT_LOGGING_FORMAT", "text"),
    ]);
    let flags = Overrides::new().with("logging.level", "--log-level", "trace");
    let loaded = ClientConfig::parse(path, text, &environment, &flags).expect("sound");
    let logging = &loaded.config.logging;
    assert_eq!(
        (logging.level.as_str(), logging.format, logging.keep),
        ("trace", LogFormat::Text, 7)
    );
    let origin = |key: &str| {
        let entry = loaded.entries.iter().find(|entry| entry.key == key).expect("an entry");
        format!("{} ({})", entry.value.as_deref().unwrap_or("-"), entry.origin)
    };
    assert_eq!(origin("logging.level"), "trace (--log-level)");
    assert_eq!(origin("logging.format"), "text (CONDUIT_LOGGING_FORMAT)");
    assert_eq!(origin("logging.keep"), "7 (conduit.toml:4)");
    assert_eq!(origin("logging.max_size"), "10 MiB (default)");
    assert_eq!(origin("router.host"), "- (default)");
}

#[test]
fn h89_every_key_outside_of_tunnels_has_a_variable_that_works() {
    for kind in [FileKind::Client, FileKind::Router] {
        for key in kind.keys() {
            let Some(variable) = key.variable() else { continue };
            let (schema::Absent::Value(text)
            | schema::Absent::Means { example: text, .. }
            | schema::Absent::Required { example: text }) = key.default;
            let environment =
                Environment::capture([("CONDUIT_HOME", "/h"), (variable.as_str(), text)]);
            let entries = match kind {
                FileKind::Client => {
                    ClientConfig::load(None, &environment, &Overrides::new())
                        .expect("sound")
                        .entries
                }
                FileKind::Router => {
                    RouterConfig::load(None, &environment, &Overrides::new())
                        .expect("sound")
                        .entries
                }
            };
            let entry =
                entries.iter().find(|entry| entry.key == key.full_name()).expect("an entry");
            assert_eq!(entry.origin, Origin::Environment(variable));
        }
    }
}

#[test]
fn h89_a_secret_has_no_flag_no_file_key_and_is_never_shown() {
    let secret = "cdp_verysecret";
    let environment =
        Environment::capture([("CONDUIT_HOME", "/h"), ("CONDUIT_SECURITY_TOKEN", secret)]);
    let loaded = ClientConfig::load(None, &environment, &Overrides::new()).expect("sound");
    assert_eq!(loaded.config.token, Some(TokenSource::Environment(Secret::new(secret))));
    let shown = format!("{loaded:?} {environment:?} {}", serde_json::json!(loaded.entries));
    assert!(!shown.contains("verysecret") && shown.contains("(hidden)"), "{shown}");
    assert!(shown.contains("CONDUIT_SECURITY_TOKEN"));

    let flags = Overrides::new().with("security.token", "--token", secret);
    let errors = ClientConfig::load(None, &home(), &flags).expect_err("a secret as a flag");
    assert!(errors.to_string().contains("cannot be given on the command line"), "{errors}");
    assert!(!errors.to_string().contains("verysecret"), "{errors}");
    let errors = client(&format!("[security]\ntoken = \"{secret}\"\n")).expect_err("in a file");
    assert!(errors.to_string().contains("security.token_file"), "{errors}");
    assert!(!errors.to_string().contains("verysecret"), "{errors}");
    let long = Environment::capture([
        ("CONDUIT_HOME", "/h"),
        ("CONDUIT_SECURITY_TOKEN", &"s3".repeat(999)),
    ]);
    let errors = ClientConfig::load(None, &long, &Overrides::new()).expect_err("too long");
    assert!(!errors.to_string().contains("s3s3"), "{errors}");
}

#[test]
fn h89_what_kubernetes_injects_is_named_and_ignored() {
    let environment = Environment::capture([
        ("CONDUIT_HOME", "/h"),
        ("CONDUIT_ROUTER_PORT", "tcp://10.0.0.1:9999"),
        ("CONDUIT_ROUTER_PORT_9999_UDP", "udp://10.0.0.1:9999"),
        ("CONDUIT_ROUTER_SERVICE_HOST", "10.0.0.1"),
        ("CONDUIT_LOGGING_LEVLE", "debug"),
        ("CONDUIT_LISTEN_BIND", "is the router's"),
        ("CONDUIT_LOGGING_FORMAT", ""),
    ]);
    let loaded = ClientConfig::load(None, &environment, &Overrides::new()).expect("sound");
    assert_eq!(loaded.config.router, None);
    let notices = loaded.notices.join("\n");
    assert_eq!(loaded.notices.len(), 4, "{notices}");
    assert!(notices.contains("CONDUIT_ROUTER_PORT=tcp://10.0.0.1:9999 is set by Kubernetes"));
    assert!(notices.contains("did you mean \"CONDUIT_LOGGING_LEVEL\"?"), "{notices}");
}

#[test]
fn h89_relative_paths_belong_to_the_file_or_to_the_working_directory() {
    let text = "[security]\nprivate_key_path = \"./keys/a.key\"\ntoken_file = \"/t\"\n[logging]\nfile = \"x.log\"\n";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("conduit.toml");
    std::fs::write(&path, text).expect("written");
    let loaded = ClientConfig::load(Some(&path), &home(), &Overrides::new()).expect("sound");
    let config = loaded.config;
    assert_eq!(config.private_key_path, folder.path().join("keys/a.key"));
    assert!(config.private_key_named);
    assert_eq!(config.logging.file, Some(folder.path().join("x.log")));
    let flags = Overrides::new().with("security.private_key_path", "--key", "b.key");
    let config = ClientConfig::load(Some(&path), &home(), &flags).expect("sound").config;
    assert_eq!(config.private_key_path, std::env::current_dir().expect("one").join("b.key"));
    let config = ClientConfig::load(None, &home(), &Overrides::new()).expect("sound").config;
    assert_eq!(
        config.private_key_path,
        std::path::absolute("/home/u/.conduit/client.key").expect("a path")
    );
    assert!(!config.private_key_named);
}
