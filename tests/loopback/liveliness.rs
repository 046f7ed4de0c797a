//! Conversations beside transfers, on one session: neither stops the other. [STR-24]

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::stage::{Stage, Target, echo, noise};

/// Keystrokes of the shell.
const KEYSTROKES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_beside_eight_transfers_answers_and_they_go_on() {
    let target = Target::echo().await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let (addr, stop) = (tunnel.local_addr(), CancellationToken::new());
    let transfers: Vec<_> = (0..8)
        .map(|seed| {
            let stop = stop.clone();
            tokio::spawn(async move { transfer(addr, seed, &stop).await })
        })
        .collect();
    let mut shell = TcpStream::connect(addr).await.expect("a connection");
    shell.set_nodelay(true).expect("no delay");
    let mut took = Vec::with_capacity(KEYSTROKES);
    for key in 0..KEYSTROKES {
        let (start, said) = (Instant::now(), [key as u8; 64]);
        shell.write_all(&said).await.expect("a keystroke");
        let mut shown = [0; 64];
        shell.read_exact(&mut shown).await.expect("its echo");
        assert_eq!(shown, said);
        took.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    let mut moved = Vec::new();
    for transfer in transfers {
        moved.push(transfer.await.expect("the same bytes") >> 10);
    }
    took.sort();
    let [half, most] = [took[KEYSTROKES / 2], took[KEYSTROKES * 95 / 100]];
    println!("echo {half:?} p50, {most:?} p95, beside {moved:?} KiB");
    // A machine that tests on every core is slow, and no network.
    assert!(half < Duration::from_millis(150), "{half:?}");
    assert!(moved.iter().all(|kib| *kib >= 1 << 10), "somebody was stopped: {moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_young_connections_leaves_a_transfer_its_part() {
    let target = Target::echo().await;
    let stage = Stage::new().await;
    let tunnel = stage.tunnel_to(target.addr).await;
    let (addr, stop) = (tunnel.local_addr(), CancellationToken::new());
    let young: Vec<_> = (0..32)
        .map(|seed| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let (page, mut count) = (noise(seed, 48 << 10), 0);
                while !stop.is_cancelled() {
                    echo(addr, &page).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let bytes = noise(99, 32 << 20);
    let backup = tokio::time::timeout(Duration::from_secs(60), echo(addr, &bytes)).await;
    assert!(backup.is_ok(), "32 MiB did not get through in a minute");
    stop.cancel();
    let mut pages = 0;
    for young in young {
        pages += young.await.expect("the same bytes");
    }
    println!("{pages} pages of 48 KiB beside 32 MiB");
    assert!(pages >= 32, "{pages}");
}

/// Sends and has sent back until it is told to stop; the bytes that came back.
async fn transfer(addr: std::net::SocketAddr, seed: u64, stop: &CancellationToken) -> u64 {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    let (mut reader, mut writer) = stream.into_split();
    let (block, stopped) = (noise(seed, 256 << 10), stop.clone());
    let sent = block.clone();
    let writing = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            writer.write_all(&sent).await.expect("bytes");
        }
    });
    let (mut back, mut moved) = (vec![0; block.len()], 0);
    while reader.read_exact(&mut back).await.is_ok() {
        assert!(back == block, "other bytes than were sent");
        moved += back.len() as u64;
    }
    writing.await.expect("a writer");
    moved
}
