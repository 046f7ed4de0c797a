//! Judges what a client declares, and keeps what was declared.

use std::sync::Arc;
use std::time::Duration;

use super::publish::{Claim, Publication, Server, publish};
use super::serve::{Client, shortened};
use crate::policy::Decision;
use crate::relay::FlowRules;
use crate::routes::Holder;
use crate::tunnel::{
    Bind, CarrierChoice, Direction, Name, Options, Oversize, Priority, Protocol, ProxyProtocol,
    Target, UnixPathError, parse_networks,
};
use crate::wire::{self, Code, Declare, Declared, check_version};

/// A tunnel that a client has declared.
#[derive(Debug)]
pub(super) struct Declaration {
    pub(super) protocol: Protocol,
    pub(super) proxy_protocol: ProxyProtocol,
    pub(super) rules: FlowRules,
    pub(super) max_flows: usize,
    pub(super) priority: Priority,
    pub(super) role: Role,
}

/// What this router does for a tunnel.
#[derive(Debug)]
pub(super) enum Role {
    /// Dials, for a forward tunnel.
    Dials(Target),
    /// Listens, for a reverse one; dropped with the declaration, the port is published no longer.
    Listens(#[allow(dead_code, reason = "held for what its end does")] Publication),
}

/// A declaration whose words make sense.
struct Asked {
    tunnel: u32,
    name: Name,
    direction: Direction,
    protocol: Protocol,
    options: Options,
}

/// Why a tunnel is not served: the code and words for the client.
type Refusal = (Code, String);

impl Client {
    /// Answers a declaration. [SES-30] [SES-31]
    pub(super) async fn declare(self: &Arc<Self>, declare: Declare) -> Declared {
        let (tunnel, name) = (declare.tunnel, shortened(&declare.name));
        let resume = Duration::from_millis(declare.resume_ms.into());
        match self.judge(declare).await {
            Ok((declaration, bind)) => {
                if let Some(suppressed) = self.seat.log.line() {
                    let source = declaration.dials().map(ToString::to_string);
                    tracing::info!(client = %self.name, tunnel = name, bind, source, suppressed, "tunnel declared");
                }
                self.keep(tunnel, declaration);
                // [RSM-1]
                let resume = resume.min(self.shared.settings.resume);
                self.session.outlive(resume);
                let resume_ms = u32::try_from(resume.as_millis()).unwrap_or(u32::MAX);
                Declared { tunnel, bind, resume_ms, ..Declared::default() }
            }
            Err((code, message)) => {
                if let Some(suppressed) = self.seat.log.line() {
                    tracing::warn!(client = %self.name, tunnel = name, reason = message, suppressed, "tunnel refused");
                }
                let (code, message) = (code.number() as u32, shortened(&message));
                Declared { tunnel, code, message, ..Declared::default() }
            }
        }
    }

    async fn judge(self: &Arc<Self>, declare: Declare) -> Result<(Declaration, String), Refusal> {
        check_version(declare.version, &declare.requires)
            .map_err(|error| (Code::Unsupported, error.to_string()))?;
        let asked = read(&declare)?;
        self.has_room(asked.tunnel)?;
        let (role, bind) = match asked.direction {
            Direction::Forward => (self.dials(&declare)?, shortened(&declare.bind)),
            Direction::Reverse => {
                let (bind, publication) = self.listens(&declare, &asked).await?;
                (Role::Listens(publication), bind.to_string())
            }
        };
        let declaration = Declaration {
            protocol: asked.protocol,
            proxy_protocol: asked.options.proxy_protocol,
            rules: FlowRules::new(asked.tunnel, &asked.options),
            max_flows: asked.options.max_flows,
            priority: asked.options.priority,
            role,
        };
        Ok((declaration, bind))
    }

    /// A forward tunnel: what can be judged before anybody connects.
    fn dials(&self, declare: &Declare) -> Result<Role, Refusal> {
        let [source] = declare.sources.as_slice() else {
            let message = "a forward tunnel has exactly one source in this version";
            return Err((Code::Unsupported, message.to_owned()));
        };
        let source: Target = source.parse().map_err(denied)?;
        if declare.protocol == wire::Protocol::Udp as i32 && source.host_port().is_none() {
            return Err((Code::Unsupported, "UDP has no Unix sockets".to_owned()));
        }
        match self.seat.permissions().may_ever(&source) {
            Decision::Denied(denial) => Err(denied(denial)),
            Decision::Allowed => Ok(Role::Dials(source)),
        }
    }

    /// A reverse tunnel: policy, then the port. [RVS-1] [RVS-2]
    async fn listens(
        self: &Arc<Self>,
        declare: &Declare,
        asked: &Asked,
    ) -> Result<(Bind, Publication), Refusal> {
        if !declare.sources.is_empty() {
            let message = "a reverse tunnel's source is the client's own business";
            return Err((Code::Unsupported, message.to_owned()));
        }
        let bind: Bind = declare.bind.parse().map_err(denied)?;
        if asked.protocol == Protocol::Udp && bind.socket_addr().is_none() {
            return Err((Code::Unsupported, "UDP has no Unix sockets".to_owned()));
        }
        let bind = without_links(bind).await?;
        if let Decision::Denied(denial) =
            self.seat.permissions().decide_bind(&bind, &self.shared.own)
        {
            return Err(denied(denial));
        }
        let options = &asked.options;
        let server = Server {
            session: self.session.clone(),
            flows: self.flows.clone(),
            rules: FlowRules::new(asked.tunnel, options),
            max_flows: options.max_flows,
            trusted: options.trusted_proxies.as_slice().into(),
            client: self.name.to_string(),
        };
        let claim = Claim {
            protocol: asked.protocol,
            holder: Holder {
                identity: self.session.peer(),
                name: asked.name.clone(),
                group: options.group.clone(),
            },
            instance: self.instance,
            server,
        };
        publish(&self.shared, &self.tasks, &bind, claim).await
    }
}

/// What the fields say. Numbers are compared as such: a kind that this version does not know must not pass for a known
/// one.
fn read(declare: &Declare) -> Result<Asked, Refusal> {
    let unsupported = |what: &str| (Code::Unsupported, format!("this router does not know {what}"));
    let direction = match wire::Direction::try_from(declare.direction) {
        Ok(wire::Direction::Forward) => Direction::Forward,
        Ok(wire::Direction::Reverse) => Direction::Reverse,
        Err(_) => return Err(unsupported("tunnels of this direction")),
    };
    let protocol = match wire::Protocol::try_from(declare.protocol) {
        Ok(wire::Protocol::Tcp) => Protocol::Tcp,
        Ok(wire::Protocol::Udp) => Protocol::Udp,
        Err(_) => return Err(unsupported("this protocol")),
    };
    let proxy_protocol = match wire::ProxyProtocol::try_from(declare.proxy_protocol) {
        Ok(wire::ProxyProtocol::Off) => ProxyProtocol::Off,
        Ok(wire::ProxyProtocol::V1) if protocol == Protocol::Tcp => ProxyProtocol::V1,
        Ok(wire::ProxyProtocol::V2) => ProxyProtocol::V2,
        _ => return Err(unsupported("this PROXY protocol")),
    };
    let oversize = match wire::Oversize::try_from(declare.oversize) {
        Ok(wire::Oversize::Fragment) => Oversize::Fragment,
        Ok(wire::Oversize::Stream) => Oversize::Stream,
        Ok(wire::Oversize::Drop) => Oversize::Drop,
        Err(_) => return Err(unsupported("this treatment of large packets")),
    };
    if declare.tunnel == 0 {
        return Err(unsupported("a tunnel of number 0"));
    }
    if declare.trusted_proxies.len() > MOST_NETWORKS {
        return Err((Code::Limit, format!("a tunnel trusts at most {MOST_NETWORKS} networks")));
    }
    let name = declare.name.parse::<Name>().map_err(denied)?;
    let group = match declare.group.as_str() {
        "" => None,
        group => Some(group.parse::<Name>().map_err(denied)?),
    };
    let options = Options {
        group,
        flow_idle: (declare.flow_idle_ms > 0).then(|| Duration::from_millis(declare.flow_idle_ms)),
        max_flows: match declare.max_flows as usize {
            0 => Options::MAX_FLOWS,
            flows => flows.min(MOST_FLOWS),
        },
        oversize,
        proxy_protocol,
        trusted_proxies: parse_networks(&declare.trusted_proxies).map_err(denied)?,
        // A wish, which an older router does not even read. [SES-35]
        priority: match wire::Priority::try_from(declare.priority) {
            Ok(wire::Priority::Interactive) => Priority::Interactive,
            Ok(wire::Priority::Bulk) => Priority::Bulk,
            Ok(wire::Priority::Normal) | Err(_) => Priority::Normal,
        },
        // The client's own affair.
        carrier: CarrierChoice::default(),
        resume: (declare.resume_ms > 0).then(|| Duration::from_millis(declare.resume_ms.into())),
    };
    Ok(Asked { tunnel: declare.tunnel, name, direction, protocol, options })
}

/// The bind with every symbolic link of its folder followed: what policy decides about is what is bound.
async fn without_links(bind: Bind) -> Result<Bind, Refusal> {
    let Bind::Unix(path) = &bind else { return Ok(bind) };
    let unavailable = |why: String| (Code::Unavailable, format!("{path}: {why}"));
    let (Some(folder), Some(file)) = (path.path().parent(), path.path().file_name()) else {
        return Err(unavailable("it is no file".to_owned()));
    };
    let folder = tokio::fs::canonicalize(folder).await;
    let real = folder.map_err(|error| unavailable(error.to_string()))?.join(file);
    let real =
        real.to_str().ok_or_else(|| unavailable("its folder's name is no text".to_owned()))?;
    real.parse().map(Bind::Unix).map_err(|error: UnixPathError| unavailable(error.to_string()))
}

fn denied(why: impl std::fmt::Display) -> Refusal {
    (Code::Denied, why.to_string())
}

/// Front ends in one tunnel's list.
const MOST_NETWORKS: usize = 64;
/// As many as there are ports.
const MOST_FLOWS: usize = 65_536;
