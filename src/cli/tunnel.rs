//! The options that say what a tunnel is: its ends, what is carried, which way, and what else is asked of it.

use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::fleet::Failure;
use crate::tunnel::{
    Bind, CarrierChoice, Direction, Name, Numbered, Options, Oversize, Priority, Protocol,
    ProxyProtocol, Span, Target, TunnelSpec, parse_networks,
};

/// What a tunnel is, as the command line says it.
#[derive(Debug, clap::Args)]
pub(super) struct TunnelArgs {
    /// What gets dialled: HOST:PORT, HOST:FIRST-LAST, or unix:/PATH
    #[arg(long, value_name = "HOST:PORT", required_unless_present_any = ["local", "remote"])]
    source: Option<Span<Target>>,
    /// Where users connect: [ADDR:]PORT or FIRST-LAST (ADDR is 127.0.0.1 if left out, port 0 any), or unix:/PATH
    #[arg(long, value_name = "[ADDR:]PORT", required_unless_present_any = ["local", "remote"])]
    bind: Option<Span<Bind>>,
    /// The router listens, and this machine dials the source: publishes a service from behind a NAT
    #[arg(long, conflicts_with = "local")]
    reverse: bool,
    /// What is carried: tcp or udp
    #[arg(long, value_name = "PROTOCOL", default_value_t = Protocol::Tcp, value_parser = word::<Protocol>)]
    protocol: Protocol,
    /// Bind and source in one, as ssh -L takes them
    #[arg(short = 'L', value_name = "[BIND:]PORT:HOST:PORT", conflicts_with_all = ["source", "bind", "remote"])]
    local: Option<Ends>,
    /// The same for a reverse tunnel, as ssh -R takes them
    #[arg(short = 'R', value_name = "[BIND:]PORT:HOST:PORT", conflicts_with_all = ["source", "bind"])]
    remote: Option<Ends>,
    /// The tunnel's name [default: tcp-PORT or udp-PORT]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<Name>,
    /// Reverse tunnels of one name and group serve side by side
    #[arg(long, value_name = "NAME")]
    group: Option<Name>,
    /// UDP: silence after which a sender's flow is over, 0 for never [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = idle)]
    flow_idle: Option<Duration>,
    /// UDP: flows at one time [default: 16384]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_flows: Option<u32>,
    /// UDP: how packets larger than the path carries go: fragment, stream, or drop
    #[arg(long, value_name = "WAY", default_value_t, value_parser = word::<Oversize>)]
    oversize: Oversize,
    /// Tell the source who a visitor is, with a PROXY header: off, v1 or v2
    #[arg(long, value_name = "VERSION", default_value_t, value_parser = word::<ProxyProtocol>)]
    proxy_protocol: ProxyProtocol,
    /// Take a PROXY header from front ends in this network; may be given again
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    trusted_proxy: Vec<IpNet>,
    /// The tunnel's share where it meets other tunnels on one path: interactive, normal or bulk
    #[arg(long, value_name = "PRIORITY", default_value_t, value_parser = word::<Priority>)]
    priority: Priority,
    /// How long connections and UDP flows wait for a lost session and then go on, or off [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = resume)]
    resume: Option<Duration>,
    /// What carries the tunnel's connection: auto, quic (UDP) or tls (TCP)
    #[arg(long, value_name = "CARRIER", default_value_t, value_parser = word::<CarrierChoice>)]
    carrier: CarrierChoice,
}

/// Both ends, as ssh writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    bind: Bind,
    source: Target,
}

impl TunnelArgs {
    /// The tunnel; under its default name when it was given none.
    pub(super) fn spec(&self) -> Result<TunnelSpec, Failure> {
        let (bind, source) = match (self.local.as_ref().or(self.remote.as_ref()), self.ends()) {
            (Some(ends), _) => (ends.bind.clone().into(), ends.source.clone().into()),
            (None, Some(ends)) => ends,
            (None, None) => return Err(Failure::usage("--source and --bind are needed")),
        };
        let is_reverse = self.reverse || self.remote.is_some();
        let direction = if is_reverse { Direction::Reverse } else { Direction::Forward };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => default_name(self.protocol, &bind, &source)?,
        };
        let (protocol, options) = (self.protocol, self.options());
        let spec = TunnelSpec { name, direction, protocol, bind, source, options };
        spec.check().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(spec)
    }

    fn ends(&self) -> Option<(Span<Bind>, Span<Target>)> {
        Some((self.bind.clone()?, self.source.clone()?))
    }

    fn options(&self) -> Options {
        let default = Options::default();
        Options {
            group: self.group.clone(),
            flow_idle: match self.flow_idle {
                Some(idle) => Some(idle).filter(|idle| !idle.is_zero()),
                None => default.flow_idle,
            },
            max_flows: self.max_flows.map_or(default.max_flows, |flows| flows as usize),
            oversize: self.oversize,
            proxy_protocol: self.proxy_protocol,
            trusted_proxies: self.trusted_proxy.clone(),
            priority: self.priority,
            resume: match self.resume {
                Some(resume) => Some(resume).filter(|resume| !resume.is_zero()),
                None => default.resume,
            },
            carrier: self.carrier,
        }
    }
}

/// The options that ask for this tunnel again.
pub(super) fn words(spec: &TunnelSpec) -> Vec<String> {
    let mut words = Vec::new();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("--name", spec.name.to_string());
    option("--source", spec.source.to_string());
    option("--bind", spec.bind.to_string());
    let (options, default) = (&spec.options, Options::default());
    if spec.protocol != Protocol::Tcp {
        option("--protocol", spec.protocol.to_string());
    }
    if let Some(group) = &options.group {
        option("--group", group.to_string());
    }
    if options.flow_idle != default.flow_idle {
        let idle = options.flow_idle.unwrap_or_default();
        option("--flow-idle", humantime::format_duration(idle).to_string());
    }
    if options.max_flows != default.max_flows {
        option("--max-flows", options.max_flows.to_string());
    }
    if options.oversize != default.oversize {
        option("--oversize", options.oversize.to_string());
    }
    if options.proxy_protocol != default.proxy_protocol {
        option("--proxy-protocol", options.proxy_protocol.to_string());
    }
    if options.priority != default.priority {
        option("--priority", options.priority.to_string());
    }
    if options.resume != default.resume {
        let resume = options.resume.unwrap_or_default();
        option("--resume", humantime::format_duration(resume).to_string());
    }
    if options.carrier != default.carrier {
        option("--carrier", options.carrier.to_string());
    }
    for network in &options.trusted_proxies {
        option("--trusted-proxy", network.to_string());
    }
    if spec.direction == Direction::Reverse {
        words.push("--reverse".to_owned());
    }
    words
}

/// `tcp-8080`: by the port that users connect to, or the source's where that is any or none.
fn default_name(
    protocol: Protocol,
    bind: &Span<Bind>,
    source: &Span<Target>,
) -> Result<Name, Failure> {
    let port = bind.first().port().filter(|port| *port != 0).or(source.first().port());
    let end = port.map_or_else(|| "unix".to_owned(), |port| port.to_string());
    let name = format!("{protocol}-{end}");
    name.parse().map_err(|error: crate::tunnel::NameError| Failure::usage(error.to_string()))
}

fn word<T: FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

fn idle(text: &str) -> Result<Duration, String> {
    duration_or_off(text, LONGEST_IDLE, "a duration from 1s to 1d, or 0 for never")
}

fn resume(text: &str) -> Result<Duration, String> {
    duration_or_off(text, LONGEST_RESUME, "a duration from 1s to 1h, or off")
}

/// Zero for none.
fn duration_or_off(text: &str, longest: Duration, legal: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "off") {
        return Ok(Duration::ZERO);
    }
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let is_legal = duration.is_zero() || (SHORTEST..=longest).contains(&duration);
    if is_legal { Ok(duration) } else { Err(legal.to_owned()) }
}

fn network(text: &str) -> Result<IpNet, String> {
    parse_networks(&[text])?.pop().ok_or_else(|| format!("{text:?} is no network"))
}

impl FromStr for Ends {
    type Err = String;

    /// `[bind:]port:host:port`; IPv6 addresses in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not [BIND:]PORT:HOST:PORT");
        let (before, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host_at = if before.ends_with(']') {
            before.rfind('[').ok_or_else(wrong)?
        } else {
            before.rfind(':').ok_or_else(wrong)? + 1
        };
        let bind = before[..host_at].strip_suffix(':').ok_or_else(wrong)?;
        let source = format!("{}:{port}", &before[host_at..]);
        Ok(Self {
            bind: bind.parse().map_err(|error| format!("{}: {error}", wrong()))?,
            source: source.parse().map_err(|error| format!("{}: {error}", wrong()))?,
        })
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST_IDLE: Duration = Duration::from_secs(86_400);
const LONGEST_RESUME: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        tunnel: TunnelArgs,
    }

    fn spec(line: &str) -> TunnelSpec {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words).expect(line).tunnel.spec().expect(line)
    }

    #[test]
    fn ends_are_read_as_ssh_writes_them() {
        for (text, bind, source) in [
            ("8080:web:80", "127.0.0.1:8080", "web:80"),
            ("0.0.0.0:8080:10.0.0.1:80", "0.0.0.0:8080", "10.0.0.1:80"),
            ("[::1]:8080:[fd00::1]:80", "[::1]:8080", "[fd00::1]:80"),
            ("8080:[fd00::1]:80", "127.0.0.1:8080", "[fd00::1]:80"),
        ] {
            let ends: Ends = text.parse().expect(text);
            assert_eq!(
                (ends.bind.to_string(), ends.source.to_string()),
                (bind.into(), source.into())
            );
        }
        for text in ["", "8080", "8080:web", "web:80", "a:b:c:d", "8080:[fd00::1:80", "8080:web:0"]
        {
            assert!(text.parse::<Ends>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_said_can_be_said_again() {
        for line in [
            "--source a:1 --bind 2",
            "-R 8080:127.0.0.1:3000",
            "--protocol udp --reverse --source 127.0.0.1:51820 --bind 0.0.0.0:51820 --flow-idle 0",
            "--source unix:/run/a --bind unix:/run/b --name c",
            "--source a:1-3 --bind 5-7 --group g --proxy-protocol v2 --trusted-proxy 10.0.0.0/8",
            "--protocol udp --source a:1 --bind 1 --oversize stream --max-flows 9 --flow-idle 1m",
            "--source a:1 --bind 1 --priority bulk",
            "--source a:1 --bind 1 --priority interactive",
        ] {
            let said = spec(line);
            assert_eq!(spec(&words(&said).join(" ")), said, "{line}");
        }
        assert_eq!(spec("-R 8080:127.0.0.1:3000").direction, Direction::Reverse);
        assert_eq!(spec("--protocol udp --source a:53 --bind 0").name.as_str(), "udp-53");
    }
}
