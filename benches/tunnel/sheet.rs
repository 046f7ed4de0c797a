//! Where the values of a run are written down, and what they are called.

use std::collections::BTreeMap;

use crate::record::{Better, Nature, Row, Run, Way};

/// Values as they come.
#[derive(Default)]
pub(crate) struct Sheet(BTreeMap<&'static str, BTreeMap<Way, Vec<f64>>>);

impl Sheet {
    pub(crate) fn put(&mut self, id: &'static str, way: Way, value: f64) {
        assert!(value.is_finite(), "{id} of {way:?} is {value}");
        self.0.entry(id).or_default().entry(way).or_default().push(value);
    }

    /// Rows in their order on paper.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let known = |id| ROWS.iter().any(|(row, ..)| *row == id);
        assert!(self.0.keys().all(|id| known(*id)), "every value has a row");
        let rows = ROWS.iter().filter_map(|(id, title, unit, better, nature)| {
            Some(Row {
                id: (*id).to_owned(),
                title: (*title).to_owned(),
                unit: (*unit).to_owned(),
                better: *better,
                nature: *nature,
                rounds: self.0.get(id)?.clone(),
            })
        });
        rows.collect()
    }
}

/// Medians, and the ratios that count.
pub(crate) fn print(run: &Run) {
    for row in &run.rows {
        println!("\n{}, {}", row.title, row.unit);
        for way in row.rounds.keys() {
            let Some(summary) = row.summary(*way) else { continue };
            print!(
                "  {:<22}{:>14.3} ±{:>4.1} %",
                way.title(),
                summary.median,
                summary.spread * 50.0
            );
            if !Way::BASELINES.contains(way) && row.nature == Nature::Ratio {
                let ratios = Way::BASELINES.iter().filter_map(|base| {
                    Some(format!("   {:.2} of {}", row.ratio(*way, *base)?.median, base.title()))
                });
                print!("{}", ratios.collect::<String>());
            }
            println!();
        }
    }
}

type Line = (&'static str, &'static str, &'static str, Better, Nature);

#[rustfmt::skip]
const ROWS: &[Line] = {
    use Better::{Higher, Lower};
    use Nature::{Exact, Machine, Ratio};
    &[
        ("bulk-up-1", "1 stream up", "Gbit/s", Higher, Ratio),
        ("bulk-down-1", "1 stream down", "Gbit/s", Higher, Ratio),
        ("bulk-up-8", "8 streams up", "Gbit/s", Higher, Ratio),
        ("bulk-down-8", "8 streams down", "Gbit/s", Higher, Ratio),
        ("bulk-up-64", "64 streams up", "Gbit/s", Higher, Ratio),
        ("bulk-down-64", "64 streams down", "Gbit/s", Higher, Ratio),
        ("connections", "new connections, 50 at a time", "1/s", Higher, Ratio),
        ("requests", "requests of 128 bytes, 50 connections", "1/s", Higher, Ratio),
        ("first-byte", "first byte of a new connection", "µs", Lower, Ratio),
        ("echo-p50", "64-byte echo, p50", "µs", Lower, Ratio),
        ("echo-p99", "64-byte echo, p99", "µs", Lower, Ratio),
        ("beside-p50", "64-byte echo beside bulk, p50", "ms", Lower, Ratio),
        ("beside-p99", "64-byte echo beside bulk, p99", "ms", Lower, Ratio),
        ("cpu-up-1", "processor time, 1 stream up", "s/GB", Lower, Ratio),
        ("cpu-up-8", "processor time, 8 streams up", "s/GB", Lower, Ratio),
        ("memory", "memory of an idle connection", "KiB", Lower, Ratio),
        ("udp-64", "packets of 64 bytes", "1/s", Higher, Ratio),
        ("udp-1400", "packets of 1,400 bytes", "1/s", Higher, Ratio),
        ("udp-64-cpu", "processor time, packet of 64 bytes", "µs", Lower, Machine),
        ("udp-1400-cpu", "processor time, packet of 1,400 bytes", "µs", Lower, Machine),
        ("wire-up-1452", "on the wire for a byte carried, packets of 1,452 bytes", "bytes", Lower, Exact),
        ("wire-back-1452", "against it for 1,000 bytes: acknowledgements, Delivered reports", "bytes", Lower, Machine),
        ("wire-up-loopback", "on the wire for a byte carried, packets of loopback", "bytes", Lower, Exact),
        ("wire-back-loopback", "against it for 1,000 bytes, packets of loopback", "bytes", Lower, Machine),
        ("wire-connection", "a connection that carries one byte there and back", "bytes", Lower, Exact),
        ("header", "header in front of the first payload", "bytes", Lower, Exact),
        ("report", "Delivered report about one stream", "bytes", Lower, Exact),
        ("crypto-1200", "seal and open packets of 1,200 bytes", "s/GB", Lower, Machine),
        ("crypto-1452", "seal and open packets of 1,452 bytes", "s/GB", Lower, Machine),
        ("crypto-6550", "seal and open packets of 6,550 bytes", "s/GB", Lower, Machine),
        ("crypto-13000", "seal and open packets of 13,000 bytes", "s/GB", Lower, Machine),
    ]
};
