//! The controller against simulated paths.

mod link;
mod world;

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};

use self::link::Link;
use self::world::World;
use super::Config;

fn auto() -> Arc<dyn ControllerFactory + Send + Sync> {
    Arc::new(Config { loopback: false, optimize_for: Default::default(), share: Arc::default() })
}
fn cubic() -> Arc<dyn ControllerFactory + Send + Sync> {
    Arc::new(CubicConfig::default())
}
fn bbr() -> Arc<dyn ControllerFactory + Send + Sync> {
    Arc::new(BbrConfig::default())
}

fn show(name: &str, world: &World, from: u64, to: u64) {
    let rates: Vec<String> =
        world.flows.iter().map(|f| format!("{:6.1}", f.mbit(from, to))).collect();
    let l = &world.forth;
    println!(
        "{name:44} {} | wait p50 {:5.1} p95 {:5.1} p99 {:5.1} ms | rnd {} drop {} of {}",
        rates.join(" "),
        l.wait(0.5).as_secs_f64() * 1e3,
        l.wait(0.95).as_secs_f64() * 1e3,
        l.wait(0.99).as_secs_f64() * 1e3,
        l.lost,
        l.dropped,
        l.passed
    );
}

fn trace(w: &mut World, upto: u64, step: u64) {
    let mut t = 0;
    while t < upto * 1000 {
        t += step;
        w.run(Duration::from_millis(t));
        let l = w
            .client(0)
            .congestion_state()
            .clone_box()
            .into_any()
            .downcast::<super::level::Level>()
            .unwrap();
        println!(
            "{:6} {} w1 {:?} drop {} wait {:?}",
            t,
            l.trace(w.now),
            w.flows.get(1).map(|_| w.client(1).congestion_state().window()),
            w.forth.dropped,
            w.forth.waits.last()
        );
    }
}

#[test]
fn traces() {
    let Ok(which) = std::env::var("TRACE") else { return };
    let ms = Duration::from_millis;
    let s = Duration::from_secs;
    match &*which {
        "cubic" => {
            let mut w = World::new(Link::new(50.0, ms(80), 1.0), 1);
            w.flow(auto(), s(0));
            w.flow(cubic(), s(0));
            trace(&mut w, 40, 200);
        }
        "cubic2" => {
            let mut w = World::new(Link::new(50.0, ms(80), 0.5), 1);
            w.flow(auto(), s(0));
            w.flow(cubic(), s(0));
            trace(&mut w, 40, 500);
        }
        "cubic3" => {
            let mut w = World::new(Link::new(50.0, ms(20), 1.0), 1);
            w.flow(auto(), s(0));
            w.flow(cubic(), s(0));
            trace(&mut w, 30, 500);
        }
        "policer" => {
            let mut link = Link::new(50.0, ms(40), 1.0);
            link.policer = true;
            link.queue = 100_000;
            let mut w = World::new(link, 1);
            w.flow(auto(), s(0));
            trace(&mut w, 15, 40);
        }
        _ => {}
    }
}

#[test]
fn table() {
    let Ok(which) = std::env::var("SIM") else { return };
    let ms = Duration::from_millis;
    let s = Duration::from_secs;
    if which.contains('a') {
        for (rate, rtt) in
            [(200.0, 20), (200.0, 80), (200.0, 200), (20.0, 20), (20.0, 80), (20.0, 200)]
        {
            for loss in [0.0, 0.01, 0.05, 0.10] {
                for bdp in [0.5, 2.0] {
                    let mut link = Link::new(rate, ms(rtt), bdp);
                    link.loss = loss;
                    let mut w = World::new(link, 1);
                    w.flow(auto(), s(0));
                    w.run(s(3));
                    let first = w.flows[0].mbit(2, 3);
                    let d3 = w.forth.dropped;
                    w.run(s(15));
                    show(
                        &format!(
                            "solo {rate} {rtt}ms loss {loss} q {bdp} 3rd s {first:.0} drop3 {d3}"
                        ),
                        &w,
                        3,
                        15,
                    );
                }
            }
        }
    }
    if which.contains('f') {
        for (rate, rtt, bdp) in
            [(50.0, 20, 1.0), (50.0, 80, 1.0), (50.0, 80, 0.5), (20.0, 200, 2.0)]
        {
            let mut w = World::new(Link::new(rate, ms(rtt), bdp), 1);
            w.flow(auto(), s(0));
            w.flow(auto(), s(5));
            w.run(s(65));
            show(&format!("fair {rate} {rtt} {bdp}"), &w, 5, 65);
            show(&format!("     last 20 s"), &w, 45, 65);
        }
    }
    if which.contains('c') {
        for (name, other) in [("cubic", cubic as fn() -> _), ("bbr", bbr)] {
            for (rate, rtt, bdp) in [
                (50.0, 20, 1.0),
                (50.0, 80, 1.0),
                (50.0, 80, 2.0),
                (50.0, 20, 0.5),
                (50.0, 80, 0.5),
            ] {
                let mut w = World::new(Link::new(rate, ms(rtt), bdp), 1);
                w.flow(auto(), s(0));
                w.flow(other(), s(0));
                w.run(s(70));
                show(&format!("beside {name} {rate} {rtt} {bdp}"), &w, 10, 70);
            }
        }
    }
    if which.contains('x') {
        let mut link = Link::new(50.0, ms(40), 0.0);
        link.queue = 15_000;
        let mut w = World::new(link, 1);
        w.flow(auto(), s(0));
        w.run(s(20));
        show("10 packets of queue", &w, 3, 20);
        let mut link = Link::new(50.0, ms(40), 250.0);
        link.queue = 62_500_000;
        let mut w = World::new(link, 1);
        w.flow(auto(), s(0));
        w.run(s(20));
        show("ten seconds of queue", &w, 3, 20);
        let mut link = Link::new(50.0, ms(40), 1.0);
        link.policer = true;
        link.queue = 100_000;
        let mut w = World::new(link, 1);
        w.flow(auto(), s(0));
        w.run(s(20));
        show("policer", &w, 3, 20);
        let mut link = Link::new(50.0, ms(40), 1.0);
        link.reorder = 0.3;
        let mut w = World::new(link, 1);
        w.flow(auto(), s(0));
        w.run(s(20));
        show("reorder 30 %", &w, 3, 20);
        let mut link = Link::new(50.0, ms(40), 1.0);
        link.jitter = ms(10);
        let mut w = World::new(link, 1);
        w.flow(auto(), s(0));
        w.run(s(20));
        show("jitter 10 ms", &w, 3, 20);
        let mut link = Link::new(50.0, ms(40), 1.0);
        link.loss = 0.15;
        let mut w = World::new(link, 1);
        w.flow(auto(), s(0));
        w.run(s(20));
        show("loss 15 %", &w, 3, 20);
        let mut w = World::new(Link::new(50.0, ms(40), 1.0), 1);
        w.flow(auto(), s(0));
        w.run(s(10));
        w.forth.link.rate *= 4.0;
        w.run(s(20));
        show("x4 at 10 s", &w, 10, 20);
        println!("{:?}", (10..20).map(|t| w.flows[0].mbit(t, t + 1) as u32).collect::<Vec<_>>());
        let mut w = World::new(Link::new(50.0, ms(40), 1.0), 1);
        w.flow(auto(), s(0));
        w.run(s(10));
        w.forth.link.rate /= 4.0;
        w.run(s(20));
        show("/4 at 10 s", &w, 10, 20);
        let mut w = World::new(Link::new(50.0, ms(40), 1.0), 1);
        w.flow(auto(), s(0));
        w.run(s(10));
        w.forth.link.down = true;
        w.run(s(15));
        w.forth.link.down = false;
        w.run(s(25));
        show("outage 10-15", &w, 15, 25);
        println!("{:?}", (10..25).map(|t| w.flows[0].mbit(t, t + 1) as u32).collect::<Vec<_>>());
    }
}
