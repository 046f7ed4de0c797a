//! The command line as programs see it: exit codes, JSON, and what is written where.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A home of its own, and everything that was started in it.
struct World {
    home: tempfile::TempDir,
    routers: Vec<Child>,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        Self { home, routers: Vec::new() }
    }

    fn command(&self, home: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conduit"));
        command.args(arguments).env_clear().env("CONDUIT_HOME", self.path(home));
        command.current_dir(self.home.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, home: &str, arguments: &[&str]) -> Output {
        self.command(home, arguments).output().expect("conduit runs")
    }

    /// Runs what must succeed; its stdout.
    fn done(&self, home: &str, arguments: &[&str]) -> String {
        let output = self.run(home, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn json(&self, home: &str, arguments: &[&str]) -> Value {
        let text = self.done(home, &[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// Runs what must fail with this exit code; the error on stderr.
    fn refused(&self, home: &str, arguments: &[&str], code: i32) -> Value {
        let output = self.run(home, &[arguments, &["-o", "json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        let line = error.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(line).expect("an error as JSON");
        assert_eq!(error["schema"], "conduit.error/1", "{error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        error
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// Starts a router on a free port; what it says of itself.
    fn router(&mut self, home: &str) -> Value {
        let arguments = ["router", "--bind", "127.0.0.1:0", "-o", "json"];
        let mut command = self.command(home, &arguments);
        let mut router =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a router");
        let stdout = router.stdout.take().expect("its stdout");
        self.routers.push(router);
        let mut text = String::new();
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("a line");
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let folders = std::fs::read_dir(self.home.path()).expect("the world's folder");
        for folder in folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            if self.path(&folder).join("tunnels").is_dir() {
                let _ = self.run(&folder, &["kill", "--all", "--force", "-q"]);
            }
        }
        for router in &mut self.routers {
            let _ = router.kill();
            let _ = router.wait();
        }
    }
}

/// A server that returns what it gets.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut copy = stream.try_clone().expect("a handle");
                let _ = std::io::copy(&mut stream, &mut copy);
                let _ = copy.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    addr.to_string()
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).expect("written");
    path.to_string_lossy().into_owned()
}

#[test]
fn every_mistake_has_its_exit_code_and_is_json_when_asked() {
    let world = World::new();
    let ends = ["--source", "127.0.0.1:1", "--bind", "0"];
    let with = |words: &[&'static str]| [words, &ends].concat();
    let unused = "cdk1_mfxcazlymfwxa3dffqqg433cn5shsidimfzsa5dinfzsa23fpexjlwgjni";
    for (arguments, code, word) in [
        (vec!["start"], 2, "usage"),
        (vec!["nonsense"], 2, "usage"),
        (vec!["kill"], 2, "usage"),
        (vec!["start", "--source", "x", "--bind", "1"], 2, "usage"),
        (vec!["kill", "--connection", "x"], 2, "usage"),
        (vec!["kill", "--tunnel", "nobody"], 1, "not_found"),
        (vec!["logs", "nobody"], 1, "not_found"),
        (vec!["status", "nobody"], 1, "not_found"),
        (vec!["up"], 78, "no_file"),
        (vec!["down"], 78, "no_file"),
        (with(&["start"]), 78, "no_router"),
        (with(&["start", "--router", "127.0.0.1:9"]), 77, "unknown_router"),
        (with(&["start", "--join", "cdt1_abc"]), 77, "ticket"),
        (with(&["start", "--join", "no-such-file"]), 77, "ticket"),
        (with(&["start", "--key", "no-such-key"]), 78, "key"),
        (vec!["router", "revoke", "nobody"], 1, "not_found"),
        (vec!["router", "invite", "--allow-target", "x"], 1, "invalid"),
        (vec!["router", "invite", "--allow-bind", "web:80"], 1, "invalid"),
    ] {
        let error = world.refused("home", &arguments, code);
        assert_eq!(error["code"], word, "{arguments:?}: {error}");
    }
    let unreachable = with(&["start", "--router", "127.0.0.1:9", "--router-identity", unused]);
    let error = world.refused("home", &unreachable, 69);
    assert_eq!((&error["kind"], &error["code"]), (&"network".into(), &"router_unreachable".into()));
}

#[test]
fn an_empty_home_is_no_error_and_stays_empty() {
    let world = World::new();
    assert_eq!(world.json("home", &["list"])["schema"], "conduit.list/1");
    assert_eq!(world.json("home", &["status"])["healthy"], true);
    assert_eq!(world.done("home", &["list", "-q"]), "");
    assert_eq!(world.json("home", &["kill", "--all"])["tunnels"], Value::Array(Vec::new()));
    assert!(!world.path("home").exists(), "looking creates nothing");
}

#[test]
fn init_never_overwrites_unless_forced() {
    let world = World::new();
    let first = world.json("home", &["init"]);
    let identity = first["identity"].as_str().expect("an identity");
    let written = std::fs::read_to_string(world.path("home/client.pub")).expect("client.pub");
    assert_eq!(written.trim(), identity);
    assert_eq!(world.refused("home", &["init"], 1)["code"], "exists");
    std::fs::remove_file(world.path("home/conduit.toml")).expect("removed");
    let kept = world.json("home", &["init"]);
    assert_eq!((&kept["identity"], &kept["key_kept"]), (&first["identity"], &Value::Bool(true)));
    assert_ne!(world.json("home", &["init", "--force"])["identity"], first["identity"]);
    let elsewhere = world.done("home", &["init", "--dir", "keys", "-q"]);
    assert!(elsewhere.starts_with("cdk1_"));
    world.done("home", &["config", "validate", "keys/conduit.toml"]);
    world.done("home", &["init", "--router"]);
    world.done("home", &["config", "validate", "home/router.toml"]);
}

#[test]
fn a_file_is_reported_with_all_its_problems_and_starts_nothing() {
    let world = World::new();
    let text = "[router]\nhots = \"x\"\n[[tunnels]]\nname = \"a\"\nsource = \"x\"\nbind = \"1\"\n";
    let bad = write(&world.path("bad.toml"), text);
    let message = world.refused("home", &["up", "-f", &bad], 78)["message"].to_string();
    assert!(message.contains("bad.toml:2:1") && message.contains("bad.toml:5:"), "{message}");
    assert!(message.contains("did you mean"), "{message}");
    let checked = world.run("home", &["config", "validate", &bad, "-o", "json"]);
    let checked: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!(
        (&checked["valid"], checked["problems"].as_array().map(Vec::len)),
        (&false.into(), Some(2))
    );
    assert!(!world.path("home").exists(), "nothing was started");
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let world = World::new();
    let file = write(&world.path("c.toml"), "[logging]\nlevel = \"debug\"\n");
    let mut command = world.command("home", &["config", "show", "--origin", &file]);
    command.env("CONDUIT_ROUTER_HOST", "r.example").env("CONDUIT_SECURITY_TOKEN", "cdp_secret");
    let shown = String::from_utf8(command.output().expect("conduit runs").stdout).expect("text");
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    assert!(line("logging.level").ends_with("c.toml:2"), "{shown}");
    assert!(line("router.host").ends_with("CONDUIT_ROUTER_HOST"), "{shown}");
    assert!(line("router.port").ends_with("default"), "{shown}");
    assert!(!shown.contains("cdp_secret"), "{shown}");
    for kind in [&["config", "generate"][..], &["config", "generate", "--router"]] {
        let file = write(&world.path("generated.toml"), &world.done("home", kind));
        world.done("home", &["config", "validate", &file]);
    }
}

#[test]
fn a_router_that_does_not_run_is_administered_through_its_store() {
    let world = World::new();
    let ticket =
        world.done("router", &["router", "invite", "--quiet", "--advertise", "127.0.0.1:9"]);
    assert!(ticket.starts_with("cdt1_") && ticket.lines().count() == 1, "the ticket alone");
    let identity = world.done("client", &["init", "-q"]);
    let arguments =
        ["router", "authorize", identity.trim(), "--name", "ci", "--allow-target", "10.0.0.0/8:80"];
    assert_eq!(world.json("router", &arguments)["permissions"], "10.0.0.0/8:80");
    assert_eq!(world.json("router", &["router", "clients"])["clients"][0]["name"], "ci");
    let revoked = world.run("router", &["router", "revoke", "ci"]);
    assert!(revoked.status.success());
    assert!(String::from_utf8_lossy(&revoked.stderr).contains("no router runs"));
    let token = world.done("router", &["router", "token", "create", "ci", "--expires", "1h", "-q"]);
    assert!(token.starts_with("cdp_"));
    world.done("router", &["router", "token", "revoke", "ci"]);
    let tokens = world.json("router", &["router", "token", "list"]);
    assert_eq!(tokens["tokens"][0]["status"], "revoked");
    assert!(!tokens.to_string().contains(token.trim()), "never shown again");
    let many = world
        .done("router", &["router", "invite", "-q", "--uses", "3", "--advertise", "127.0.0.1:9"]);
    let arguments = ["start", "-L", "0:127.0.0.1:1", "--join", many.trim()];
    assert_eq!(world.refused("client", &arguments, 2)["code"], "usage");
}

#[test]
fn binds_are_allowed_by_rules_and_to_owners_from_port_1024() {
    let world = World::new();
    let identity = world.done("client", &["init", "-q"]);
    let authorized = |options: &[&str]| {
        let arguments = ["router", "authorize", identity.trim(), "--name", "ci"];
        let document = world.json("router", &[&arguments, options].concat());
        document["permissions"].as_str().expect("words").to_owned()
    };
    assert_eq!(
        authorized(&["--allow-bind", "*:8080", "--allow-bind", "unix:/run/a"]),
        "nothing; may listen at *:8080 unix:/run/a"
    );
    assert_eq!(
        authorized(&["--allow-bind", "*:8080", "--allow-target", "10.0.0.0/8:80"]),
        "10.0.0.0/8:80; may listen at *:8080"
    );
    assert!(authorized(&["--owner"]).ends_with("may listen at any port from 1024"));
    let low = authorized(&["--owner", "--allow-bind", "0.0.0.0:80"]);
    assert!(low.starts_with("owner") && low.ends_with("from 1024 and 0.0.0.0:80"), "{low}");
    assert_eq!(authorized(&[]), low, "a known key keeps its binds too");
    let invite = ["router", "invite", "--advertise", "127.0.0.1:9"];
    let invited = world.json("router", &[&invite[..], &["--allow-bind", "*:80"]].concat());
    assert_eq!(invited["permissions"], "nothing; may listen at *:80");
}

#[test]
fn service_files_keep_the_command_and_no_secret() {
    let world = World::new();
    let file = write(
        &world.path("fleet.toml"),
        "[[tunnels]]\nname = \"web\"\nsource = \"10.0.0.1:80\"\nbind = \"0.0.0.0:80\"\n",
    );
    let exec = |arguments: &[&str]| {
        let unit = world.done("home", &[arguments, &["--service-file", "systemd"]].concat());
        let line = unit.lines().find(|line| line.starts_with("ExecStart=")).map(str::to_owned);
        (line.expect("ExecStart"), unit)
    };
    let (start, unit) = exec(&["start", "--source", "10.0.0.1:80", "--bind", "80"]);
    assert!(
        start
            .ends_with("start --foreground --name tcp-80 --source 10.0.0.1:80 --bind 127.0.0.1:80")
    );
    assert!(unit.contains("CAP_NET_BIND_SERVICE"));
    assert!(exec(&["up", "-f", &file]).0.contains("up --foreground --file "));
    assert!(exec(&["router", "--bind", "0.0.0.0:9999"]).0.ends_with("router --bind 0.0.0.0:9999"));
}

#[test]
fn a_service_file_names_what_the_service_would_not_find() {
    let world = World::new();
    let ends = ["start", "--source", "10.0.0.1:80", "--bind", "8080", "--service-file", "systemd"];
    let printed = |world: &World| {
        let mut command = world.command("home", &ends);
        command.env("CONDUIT_LOGGING_LEVEL", "debug").env("CONDUIT_SECURITY_TOKEN", "cdp_secret");
        let output = command.output().expect("conduit runs");
        assert!(output.status.success());
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    };
    let (unit, said) = printed(&world);
    assert!(!unit.contains("--file"), "{unit}");
    assert!(said.contains("does not exist yet") && said.contains("`conduit init`"), "{said}");
    for variable in ["CONDUIT_LOGGING_LEVEL", "CONDUIT_SECURITY_TOKEN"] {
        assert!(said.contains(variable) && !unit.contains(variable), "{variable}: {said}");
    }
    assert!(!said.contains("cdp_secret") && !said.contains("CONDUIT_HOME"), "{said}");
    assert!(!world.path("home").exists(), "nothing was created");

    world.done("home", &["init", "-q"]);
    let (unit, said) = printed(&world);
    assert!(!unit.contains("--file"), "the home's own is found: {unit}");
    assert!(!said.contains("does not exist"), "{said}");
    write(&world.path("conduit.toml"), "");
    let (unit, _) = printed(&world);
    let exec = unit.lines().find(|line| line.starts_with("ExecStart=")).expect("ExecStart");
    let file = std::fs::canonicalize(world.path("conduit.toml")).expect("a path");
    assert!(exec.ends_with(&format!("--file {}", file.display())), "{exec}");
}

#[test]
fn completions_and_manual_pages_come_from_the_same_definitions() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(world.done("home", &["completions", shell]).contains("router"), "{shell}");
    }
    world.done("home", &["man", "pages"]);
    let pages = std::fs::read_dir(world.path("pages")).expect("pages").count();
    assert!(pages >= 20, "only {pages} pages");
    assert_eq!(world.json("home", &["version"])["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_demo_carries_a_request_and_ends() {
    let world = World::new();
    let demo = world.json("home", &["demo"]);
    assert_eq!(demo["ok"], true);
    assert!(demo["steps"].as_array().is_some_and(|steps| steps.len() >= 5), "{demo}");
    assert!(!world.path("home").exists(), "the real home is left alone");
}

#[test]
fn two_commands_make_a_tunnel_that_is_seen_stopped_and_remembered() {
    let mut world = World::new();
    world.router("router");
    let ticket = world.done("router", &["router", "invite", "-q"]);
    let source = echo();
    let started = world.json(
        "client",
        &["start", "--join", ticket.trim(), "--source", &source, "--bind", "0", "--name", "echo"],
    );
    let bind = started["bind"].as_str().expect("a bind");
    let mut stream = TcpStream::connect(bind).expect("connected");
    stream.write_all(b"through").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("half-closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("received");
    assert_eq!(answer, "through");
    let list = world.json("client", &["list", "--connections"]);
    assert_eq!(
        (&list["tunnels"][0]["name"], &list["tunnels"][0]["state"]),
        (&"echo".into(), &"ready".into())
    );
    assert_eq!(list["tunnels"][0]["bytes_up"], 7);
    assert_eq!(world.json("client", &["status"])["tunnels"][0]["probe"]["ok"], true);
    assert_eq!(world.json("router", &["status"])["router"]["healthy"], true);
    let again = ["start", "--source", &source, "--bind", "0", "--name", "ECHO"];
    assert_eq!(world.refused("client", &again, 1)["code"], "already_running");
    assert_eq!(
        world.json("client", &["kill", "--tunnel", "echo"])["tunnels"][0]["outcome"],
        "stopped"
    );
    TcpListener::bind(bind).expect("the port is free at once");
    let all = world.json("client", &["list", "--all"]);
    assert_eq!(all["tunnels"][0]["state"], "stopped");
    assert!(world.done("client", &["logs", "echo"]).contains("tunnel ready"));
}

#[test]
fn a_file_is_brought_up_in_line_and_down() {
    let mut world = World::new();
    world.router("router");
    let ticket = world.done("router", &["router", "invite", "-q"]);
    let source = echo();
    let file = |world: &World, level: &str| {
        let tunnel = |name: &str| {
            format!("[[tunnels]]\nname = \"{name}\"\nsource = \"{source}\"\nbind = \"0\"\n")
        };
        let text = format!("{}{}[logging]\nlevel = \"{level}\"\n", tunnel("one"), tunnel("two"));
        write(&world.path("fleet.toml"), &text)
    };
    let path = file(&world, "info");
    let outcomes = |world: &World, arguments: &[&str]| -> Vec<String> {
        let up = world.json("client", arguments);
        let tunnels = up["tunnels"].as_array().expect("tunnels");
        tunnels
            .iter()
            .map(|tunnel| tunnel["outcome"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(
        outcomes(&world, &["up", "-f", &path, "--join", ticket.trim()]),
        ["started", "started"]
    );
    assert_eq!(outcomes(&world, &["up", "-f", &path]), ["running", "running"]);
    file(&world, "debug");
    assert_eq!(outcomes(&world, &["up", "-f", &path]), ["restarted", "restarted"]);
    write(&world.path("fleet.toml"), "this is no TOML");
    assert_eq!(outcomes(&world, &["down", "-f", &path]), ["stopped", "stopped"]);
    assert_eq!(outcomes(&world, &["down", "-f", &path]), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_tunnel_that_hangs_is_named_within_a_second_and_can_be_killed() {
    let mut world = World::new();
    world.router("router");
    let ticket = world.done("router", &["router", "invite", "-q"]);
    let started = world.json(
        "client",
        &["start", "--join", ticket.trim(), "-L", "0:127.0.0.1:9", "--name", "hung"],
    );
    let pid = started["pid"].to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().expect("kill").success());
    let asked = std::time::Instant::now();
    let list = world.run("client", &["list"]);
    assert!(asked.elapsed() < std::time::Duration::from_secs(1), "{:?}", asked.elapsed());
    let advice = String::from_utf8_lossy(&list.stderr).into_owned();
    assert!(advice.contains("conduit kill --force --tunnel hung-"), "it is named: {advice}");
    let hung = &world.json("client", &["list"])["tunnels"][0];
    assert_eq!((&hung["state"], &hung["answers"]), (&"degraded".into(), &false.into()));
    assert_eq!(world.run("client", &["status"]).status.code(), Some(1));
    assert_eq!(world.run("client", &["kill", "--tunnel", "hung"]).status.code(), Some(69));
    let status = world.run("client", &["status"]);
    assert_eq!(status.status.code(), Some(0), "what was killed on purpose is no failure");
}

#[cfg(target_os = "linux")]
#[test]
fn up_warns_of_a_tunnel_that_runs_and_does_not_answer() {
    let mut world = World::new();
    world.router("router");
    let ticket = world.done("router", &["router", "invite", "-q"]);
    let text = "[[tunnels]]\nname = \"web\"\nsource = \"127.0.0.1:9\"\nbind = \"0\"\n";
    let path = write(&world.path("fleet.toml"), text);
    let up = world.json("client", &["up", "-f", &path, "--join", ticket.trim()]);
    let pid = up["tunnels"][0]["pid"].to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().expect("kill").success());
    let again = world.run("client", &["up", "-f", &path]);
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(said.contains("already running, but does not answer"), "{said}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force --tunnel web-"));
    assert_eq!(world.json("client", &["up", "-f", &path])["tunnels"][0]["answers"], false);
}

#[test]
fn a_tunnel_whose_record_is_damaged_is_not_said_to_be_down() {
    let mut world = World::new();
    world.router("router");
    let ticket = world.done("router", &["router", "invite", "-q"]);
    let text = "[[tunnels]]\nname = \"web\"\nsource = \"127.0.0.1:9\"\nbind = \"0\"\n";
    let path = write(&world.path("fleet.toml"), text);
    let up = world.json("client", &["up", "-f", &path, "--join", ticket.trim()]);
    let id = up["tunnels"][0]["id"].as_str().expect("an id").to_owned();
    let record = world.path(&format!("client/tunnels/{id}.json"));
    let sound = std::fs::read(&record).expect("a record");
    std::fs::write(&record, "garbage").expect("written");
    for arguments in [&["kill", "--all"][..], &["down", "-f", &path], &["kill", "--tunnel", "web"]]
    {
        let error = world.refused("client", arguments, 1);
        assert_eq!(error["code"], "record_damaged", "{arguments:?}: {error}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(&id) && message.contains("web.lock"), "{message}");
    }
    let again = world.run("client", &["up", "-f", &path, "-o", "json"]);
    let again: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(again["tunnels"][0]["error"]["code"], "record_damaged", "{again}");
    std::fs::write(&record, sound).expect("mended");
    assert_eq!(world.json("client", &["down", "-f", &path])["tunnels"][0]["outcome"], "stopped");
}

#[test]
fn a_tunnel_cannot_be_called_as_the_router_that_runs_here() {
    let mut world = World::new();
    world.router("both");
    let ticket = world.done("both", &["router", "invite", "-q"]);
    let start = ["start", "--join", ticket.trim(), "-L", "0:127.0.0.1:9", "--name", "Router"];
    let message = world.refused("both", &start, 1)["message"].to_string();
    assert!(message.contains("that of the router that runs here"), "{message}");
    let text = "[[tunnels]]\nname = \"router\"\nsource = \"127.0.0.1:9\"\nbind = \"0\"\n";
    let path = write(&world.path("fleet.toml"), text);
    let up = world.run("both", &["up", "-f", &path]);
    assert!(String::from_utf8_lossy(&up.stdout).contains("that of the router that runs here"));
}

#[test]
fn a_router_that_crashed_is_down_until_it_is_back() {
    let mut world = World::new();
    world.router("router");
    world.routers[0].kill().expect("killed");
    world.routers[0].wait().expect("gone");
    let status = world.run("router", &["status"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(1), "{said}");
    let row = said.lines().find(|line| line.starts_with("router-")).expect("its row");
    assert!(["down", "failed", "died"].iter().all(|word| row.contains(word)), "{row}");
    let document = world.run("router", &["status", "-o", "json"]);
    let document: Value = serde_json::from_slice(&document.stdout).expect("JSON");
    let router = &document["router"];
    assert_eq!((&router["healthy"], &router["state"]), (&false.into(), &"failed".into()));
    world.router("router");
    assert_eq!(world.json("router", &["status"])["healthy"], true);
}

#[cfg(target_os = "linux")]
#[test]
fn a_tunnel_process_shows_nothing_secret_and_holds_nothing_of_its_parent() {
    let mut world = World::new();
    world.router("router");
    let ticket = world.done("router", &["router", "invite", "-q"]);
    let arguments = ["start", "-L", "0:127.0.0.1:9", "-o", "json"];
    let mut command = world.command("client", &arguments);
    let output = command.env("CONDUIT_TICKET", ticket.trim()).output().expect("conduit runs");
    let started: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let proc = format!("/proc/{}", started["pid"]);
    for file in ["environ", "cmdline"] {
        let bytes = std::fs::read(format!("{proc}/{file}")).expect("readable");
        assert!(!String::from_utf8_lossy(&bytes).contains("cdt1_"), "{file}");
    }
    assert_eq!(std::fs::read_link(format!("{proc}/cwd")).expect("a folder"), Path::new("/"));
    let stat = std::fs::read_to_string(format!("{proc}/stat")).expect("stat");
    let session = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(3));
    assert_eq!(session, Some(started["pid"].to_string().as_str()), "a session of its own");
}

/// What programs read, field by field and in order: a change here is a change of the schema.
#[test]
fn json_documents_keep_their_shape() {
    let mut world = World::new();
    let router = world.router("router");
    let invitation = world.json("router", &["router", "invite"]);
    let ticket = invitation["ticket"].as_str().expect("a ticket").to_owned();
    let source = echo();
    let arguments =
        ["start", "--join", &ticket, "--source", &source, "--bind", ":0", "--name", "web"];
    let started = world.json("client", &arguments);
    let bind = started["bind"].as_str().expect("an address").to_owned();
    let mut stream = TcpStream::connect(bind).expect("a connection");
    stream.write_all(b"ping").expect("sent");
    stream.read_exact(&mut [0; 4]).expect("back");
    let listed = world.json("client", &["list", "--connections"]);
    let token = world.json("router", &["router", "token", "create", "ci"]);
    let version = world.json("client", &["version"]);
    let status = world.json("client", &["status"]);
    drop(stream);
    let ended = world.json("client", &["kill", "--tunnel", "web"]);
    let ends = ["--source", &source, "--bind", "127.0.0.1:0", "--protocol", "udp", "--reverse"];
    world.json("client", &[&["start", "--name", "dns"], &ends[..]].concat());
    let documents = [
        ("published", world.json("client", &["list"])),
        ("router_status", world.json("router", &["status"])),
        ("router", router),
        ("invite", invitation),
        ("start", started),
        ("list", listed),
        ("status", status),
        ("token", token),
        ("clients", world.json("router", &["router", "clients"])),
        ("kill", ended),
        ("version", version),
        ("error", world.refused("client", &["kill", "--tunnel", "web"], 1)),
    ];
    for (name, document) in documents {
        insta::assert_snapshot!(name, shape(&document, 0));
    }
}

/// The names and kinds of a document's values; of a list, those of its first element.
fn shape(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth + 1);
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) if name == "schema" => format!("\n{indent}{name}: {text}"),
                value => format!("\n{indent}{name}: {}", shape(value, depth + 1)),
            })
            .collect(),
        Value::Array(elements) => match elements.first() {
            Some(first) => format!("list of {}", shape(first, depth)),
            None => "list".to_owned(),
        },
        Value::String(_) => "text".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::Bool(_) => "truth".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

#[test]
fn a_log_is_lines_for_people_and_documents_for_programs() {
    let mut world = World::new();
    world.router("router");
    let ticket = world.done("router", &["router", "invite", "-q"]);
    let source = echo();
    let ticket = ticket.trim();
    world
        .done("c", &["start", "--join", ticket, "--source", &source, "--bind", "0", "--name", "l"]);
    let plain = world.done("c", &["logs", "l"]);
    let documents = world.done("c", &["logs", "l", "-o", "json"]);
    assert!(plain.contains("tunnel ready"));
    assert_eq!(documents.lines().count(), plain.lines().count());
    for (document, line) in documents.lines().zip(plain.lines()) {
        let document: Value = serde_json::from_str(document).expect("JSON");
        assert_eq!(
            (&document["schema"], &document["line"]),
            (&"conduit.log/1".into(), &line.into())
        );
    }
}
