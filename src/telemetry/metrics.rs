//! The metrics registry: who owns a figure registers it and moves it, this encodes them all.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

/// All metrics of one router or tunnel; clones share them. Every name gets the prefix `conduit_`.
///
/// A counter is registered without `_total` and a figure with a unit without it: OpenMetrics appends both.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry without metrics.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("conduit"))))
    }

    /// A counter, exposed as `conduit_<name>_total`.
    pub fn register_counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(name, help, counter.clone());
        counter
    }

    /// A gauge, exposed as `conduit_<name>`.
    pub fn register_gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, help, gauge.clone());
        gauge
    }

    /// One metric per set of labels (`Family<Labels, Counter>`, say).
    pub fn register_family<L, M>(&self, name: &str, help: &str) -> Family<L, M>
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
        M: Default + Send + Sync + 'static,
        Family<L, M>: Metric,
    {
        let family = Family::default();
        self.register(name, help, family.clone());
        family
    }

    /// Any metric of `prometheus_client`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.lock().register(name, help, metric);
    }

    /// Any metric with a unit, which becomes part of its name.
    pub fn register_with_unit(&self, name: &str, help: &str, unit: Unit, metric: impl Metric) {
        self.lock().register_with_unit(name, help, unit, metric);
    }

    /// Everything as OpenMetrics text, with `# EOF` at the end.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, and no metric of ours fails to encode itself.
        let _ = encode(&mut text, &self.lock());
        text
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_and_moved_is_exposed() {
        let metrics = Metrics::new();
        let connections = metrics.register_counter("connections", "Connections accepted");
        let active = metrics.clone().register_gauge("active_connections", "Connections open now");
        let refused: Family<[(&'static str, &'static str); 1], Counter> =
            metrics.register_family("refusals", "Streams refused, by reason");
        let bytes = Counter::<u64>::default();
        metrics.register_with_unit("carried", "Bytes carried", Unit::Bytes, bytes.clone());
        connections.inc_by(3);
        active.set(2);
        refused.get_or_create(&[("reason", "denied")]).inc();
        bytes.inc_by(10);
        let text = metrics.encode();
        for line in [
            "conduit_connections_total 3\n",
            "conduit_active_connections 2\n",
            "conduit_refusals_total{reason=\"denied\"} 1\n",
            "conduit_carried_bytes_total 10\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
