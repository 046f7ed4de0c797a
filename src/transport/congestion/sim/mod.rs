//! The controller on simulated paths, in virtual time: what happens depends on the seed alone.

mod alone;
mod beside;
mod link;
mod world;

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};

use self::link::Link;
use self::world::World;
use super::Config;
use crate::transport::{OptimizeFor, ShareCell};
use crate::tunnel::Priority;

type Factory = Arc<dyn ControllerFactory + Send + Sync>;

fn auto() -> Factory {
    with_priority(Priority::Normal)
}

fn with_priority(priority: Priority) -> Factory {
    let share = Arc::new(ShareCell::new(priority));
    Arc::new(Config { optimize_for: OptimizeFor::default(), share })
}

fn cubic() -> Factory {
    Arc::new(CubicConfig::default())
}

fn bbr() -> Factory {
    Arc::new(BbrConfig::default())
}

/// One connection for so many seconds.
fn alone(link: Link, seconds: u64) -> World {
    let mut world = World::new(link, 1);
    world.flow(auto(), Duration::ZERO);
    world.run(Duration::from_secs(seconds));
    world
}

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;
