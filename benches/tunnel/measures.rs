//! What is measured, and on which ways.

use std::time::Duration;

use crate::harness::aead;
use crate::harness::load::{self, Direction, Timing};
use crate::harness::target::Target;
use crate::harness::udp::Lanes;
use crate::harness::ways::Running;
use crate::overhead;
use crate::record::Way;
use crate::sheet::Sheet;

/// One load; what it says belongs to one or more rows.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) ways: &'static [Way],
    pub(crate) take: fn(&Running, &Target, Effort) -> Vec<(&'static str, f64)>,
}

/// How much of everything.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Packets take long; the parts hardly differ.
    pub(crate) rounds_of_packets: usize,
    timing: Timing,
    window_of_packets: Duration,
    echoes: usize,
    first_bytes: usize,
    idle: usize,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        rounds_of_packets: 3,
        timing: Timing { warm_up: Duration::from_millis(200), window: Duration::from_millis(400) },
        window_of_packets: Duration::from_millis(300),
        echoes: 3_000,
        first_bytes: 500,
        idle: 2_000,
    };
    pub(crate) const QUICK: Self = Self {
        rounds: 1,
        rounds_of_packets: 1,
        timing: Timing { warm_up: Duration::from_millis(50), window: Duration::from_millis(100) },
        window_of_packets: Duration::from_millis(100),
        echoes: 300,
        first_bytes: 50,
        idle: 200,
    };
}

/// In this order: memory first, while the processes are fresh.
pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "memory",
        ways: PROCESSES,
        take: |way, target, effort| {
            let each = load::memory(way, target, effort.idle);
            each.map(|kib| ("memory", kib)).into_iter().collect()
        },
    },
    Measure {
        name: "bulk-up-1",
        ways: EVERY,
        take: |way, target, effort| {
            let bulk = load::bulk(way, target, 1, Direction::Up, effort.timing);
            with_cpu(("bulk-up-1", bulk.gbits), "cpu-up-1", bulk.cpu_per_gb)
        },
    },
    Measure {
        name: "bulk-up-8",
        ways: MAIN,
        take: |way, target, effort| {
            let bulk = load::bulk(way, target, 8, Direction::Up, effort.timing);
            with_cpu(("bulk-up-8", bulk.gbits), "cpu-up-8", bulk.cpu_per_gb)
        },
    },
    Measure {
        name: "bulk-up-64",
        ways: MAIN,
        take: |way, target, effort| bulk("bulk-up-64", way, target, 64, Direction::Up, effort),
    },
    Measure {
        name: "bulk-down-1",
        ways: MAIN,
        take: |way, target, effort| bulk("bulk-down-1", way, target, 1, Direction::Down, effort),
    },
    Measure {
        name: "bulk-down-8",
        ways: MAIN,
        take: |way, target, effort| bulk("bulk-down-8", way, target, 8, Direction::Down, effort),
    },
    Measure {
        name: "bulk-down-64",
        ways: MAIN,
        take: |way, target, effort| bulk("bulk-down-64", way, target, 64, Direction::Down, effort),
    },
    Measure {
        name: "connections",
        ways: MAIN,
        take: |way, _, effort| vec![("connections", load::connections(way.addr, effort.timing))],
    },
    Measure {
        name: "requests",
        ways: MAIN,
        take: |way, _, effort| vec![("requests", load::requests(way.addr, effort.timing))],
    },
    Measure {
        name: "first-byte",
        ways: MAIN,
        take: |way, _, effort| {
            let times = load::first_bytes(way.addr, effort.first_bytes);
            vec![("first-byte", times.percentile(50) * 1e6)]
        },
    },
    Measure {
        name: "echo",
        ways: MAIN,
        take: |way, _, effort| {
            let times = load::echoes(way.addr, effort.echoes);
            vec![("echo-p50", times.percentile(50) * 1e6), ("echo-p99", times.percentile(99) * 1e6)]
        },
    },
    Measure {
        name: "beside",
        ways: EVERY,
        take: |way, target, _| {
            let times = load::echoes_beside_bulk(way, target, 1_000);
            vec![
                ("beside-p50", times.percentile(50) * 1e3),
                ("beside-p99", times.percentile(99) * 1e3),
            ]
        },
    },
];

fn bulk(
    id: &'static str,
    way: &Running,
    target: &Target,
    streams: usize,
    direction: Direction,
    effort: Effort,
) -> Vec<(&'static str, f64)> {
    vec![(id, load::bulk(way, target, streams, direction, effort.timing).gbits)]
}

fn with_cpu(
    first: (&'static str, f64),
    id: &'static str,
    cpu: Option<f64>,
) -> Vec<(&'static str, f64)> {
    std::iter::once(first).chain(cpu.map(|seconds| (id, seconds))).collect()
}

/// UDP, in processes of its own: other baselines carry none.
pub(crate) fn packets(settings: &[(String, String)], effort: Effort, sheet: &mut Sheet) {
    let lanes = Lanes::start(settings);
    for (size, rate, cpu) in [(64, "udp-64", "udp-64-cpu"), (1_400, "udp-1400", "udp-1400-cpu")] {
        for way in [Way::NoTunnel, Way::Conduit, Way::ConduitReverse] {
            let carried = lanes.highest_rate(way, size, effort.window_of_packets);
            sheet.put(rate, way, carried.rate);
            if let Some(micros) = carried.cpu {
                sheet.put(cpu, way, micros);
            }
        }
    }
}

/// The protocol and the cryptography by themselves.
pub(crate) fn parts(target: &Target, sheet: &mut Sheet) {
    let ethernet = overhead::on_the_wire(target, Some(1_452));
    sheet.put("wire-up-1452", Way::Conduit, ethernet.up);
    sheet.put("wire-back-1452", Way::Conduit, ethernet.back * 1e3);
    sheet.put("wire-connection", Way::Conduit, ethernet.connection);
    let loopback = overhead::on_the_wire(target, None);
    sheet.put("wire-up-loopback", Way::Conduit, loopback.up);
    sheet.put("wire-back-loopback", Way::Conduit, loopback.back * 1e3);
    sheet.put("header", Way::Conduit, overhead::header() as f64);
    sheet.put("report", Way::Conduit, overhead::report() as f64);
    let ids = ["crypto-1200", "crypto-1452", "crypto-6550", "crypto-13000"];
    for (id, size) in ids.into_iter().zip(aead::SIZES) {
        sheet.put(id, Way::Conduit, aead::seconds_per_gb(size));
    }
}

const MAIN: &[Way] = &[Way::NoTunnel, Way::TcpRelay, Way::TlsRelay, Way::Conduit];
const EVERY: &[Way] = &[
    Way::NoTunnel,
    Way::TcpRelay,
    Way::TlsRelay,
    Way::Conduit,
    Way::ConduitThroughput,
    Way::ConduitLatency,
];
const PROCESSES: &[Way] = &[Way::TcpRelay, Way::TlsRelay, Way::Conduit];
