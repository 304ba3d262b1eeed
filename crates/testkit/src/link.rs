//! A cable between two processes on loopback that a test can cut, stall, slow down and heal.
//!
//! Forwards bytes and knows nothing of them. Bytes that were accepted before a stall arrive after
//! it; bytes under way when it is cut are lost, as on a network, and both sides see a reset.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::random::Random;

const CHUNK: usize = 64 * 1024;

/// What one direction of a cable does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Carries them.
    Whole,
    /// Keeps them until it changes.
    Held,
    /// Takes them and loses them. A connection that lost some ends when that changes.
    Swallowed,
    /// Carries each chunk after a time of its own, at most this long, in order.
    Delayed(Duration),
    /// Carries so many bytes a second.
    Throttled(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cable {
    /// Connections end, and new ones end at once.
    Cut,
    Open {
        /// To the target.
        there: Flow,
        /// From the target.
        back: Flow,
    },
}

#[derive(Clone, Copy)]
enum Direction {
    There,
    Back,
}

/// The connection is to be reset.
struct Reset;

/// A TCP forwarder in front of one address. Ends when dropped.
#[derive(Debug)]
pub struct LinkProxy {
    address: SocketAddr,
    cable: watch::Sender<Cable>,
    _end: DropGuard,
}

impl LinkProxy {
    /// Forwards what connects to [`address`](Self::address) to `target`.
    ///
    /// # Panics
    ///
    /// When no port is free.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (cable, state) = watch::channel(Cable::WHOLE);
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(listener, target, state)));
        Self { address, cable, _end: end.drop_guard() }
    }

    /// Where to connect instead of to the target.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections and every new one.
    pub fn cut(&self) {
        self.cable.send_replace(Cable::Cut);
    }

    /// Carries nothing more and keeps the connections: what a pulled cable looks like.
    pub fn stall(&self) {
        self.set(Flow::Held, Flow::Held);
    }

    /// Carries everything again.
    pub fn heal(&self) {
        self.set(Flow::Whole, Flow::Whole);
    }

    /// Changes what it does with bytes to the target, and with those that come back.
    pub fn set(&self, there: Flow, back: Flow) {
        self.cable.send_replace(Cable::Open { there, back });
    }
}

impl Cable {
    const WHOLE: Self = Self::Open { there: Flow::Whole, back: Flow::Whole };

    const fn flow(self, direction: Direction) -> Option<Flow> {
        match (self, direction) {
            (Self::Cut, _) => None,
            (Self::Open { there, .. }, Direction::There) => Some(there),
            (Self::Open { back, .. }, Direction::Back) => Some(back),
        }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<Cable>) {
    while let Ok((inner, _)) = listener.accept().await {
        let state = state.clone();
        if *state.borrow() != Cable::Cut {
            tokio::spawn(connect(inner, target, state));
        }
    }
}

async fn connect(mut near: TcpStream, target: SocketAddr, mut state: watch::Receiver<Cable>) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("a connected socket takes the option");
    }
    let (there, back) = (state.clone(), state.clone());
    let carried = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let both = async {
            tokio::try_join!(
                pump(near_read, far_write, Direction::There, there),
                pump(far_read, near_write, Direction::Back, back)
            )
        };
        tokio::select! {
            carried = both => carried.is_ok(),
            _ = state.wait_for(|cable| *cable == Cable::Cut) => false,
        }
    };
    if !carried {
        for stream in [&near, &far] {
            // It fails only on a socket that is closed anyway.
            stream.set_zero_linger().ok();
        }
    }
}

/// Ends, and with that closes its half, when either side is done.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut state: watch::Receiver<Cable>,
) -> Result<(), Reset> {
    let mut buffer = vec![0; CHUNK];
    let mut random = Random::new(from.local_addr().map_or(0, |address| address.port().into()));
    let mut lost = false;
    loop {
        let flow = state.borrow_and_update().flow(direction).ok_or(Reset)?;
        if lost && flow != Flow::Swallowed {
            return Err(Reset);
        }
        if flow == Flow::Held {
            state.changed().await.map_err(|_| Reset)?;
            continue;
        }
        let room = chunk(flow).min(buffer.len());
        let read = tokio::select! {
            read = from.read(&mut buffer[..room]) => read,
            changed = state.changed() => {
                changed.map_err(|_| Reset)?;
                continue;
            }
        };
        let bytes = match read {
            Ok(0) => break,
            Ok(count) => &buffer[..count],
            Err(_) => return Err(Reset),
        };
        match flow {
            Flow::Whole | Flow::Held => {}
            Flow::Swallowed => {
                lost = true;
                continue;
            }
            Flow::Delayed(most) => {
                let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
                tokio::time::sleep(Duration::from_millis(random.between(1, millis))).await;
            }
            Flow::Throttled(rate) => {
                let share = bytes.len() as f64 / f64::from(rate.max(1));
                tokio::time::sleep(Duration::from_secs_f64(share)).await;
            }
        }
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    // It fails when the other side has closed too.
    to.shutdown().await.ok();
    Ok(())
}

/// Most bytes to take at once: a tenth of a second's worth on a throttled cable.
fn chunk(flow: Flow) -> usize {
    match flow {
        Flow::Throttled(rate) => usize::try_from(rate / 10).unwrap_or(CHUNK).max(1),
        Flow::Whole | Flow::Held | Flow::Swallowed | Flow::Delayed(_) => CHUNK,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// Both ends of a connection over a cable.
    async fn connection() -> (LinkProxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = LinkProxy::start(listener.local_addr().unwrap()).await;
        let near = TcpStream::connect(link.address()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (link, near, far)
    }

    async fn carries(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
        let sent: Vec<_> = (0..bytes).map(|at| (at % 251) as u8).collect();
        let mut come = vec![0; bytes];
        let (wrote, read) = tokio::join!(from.write_all(&sent), to.read_exact(&mut come));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(come, sent);
    }

    #[tokio::test]
    async fn a_slow_cable_carries_everything_in_order() {
        for flow in [Flow::Delayed(Duration::from_millis(3)), Flow::Throttled(2_000_000)] {
            let (link, mut near, mut far) = connection().await;
            link.set(flow, flow);
            carries(&mut near, &mut far, 200_000).await;
            carries(&mut far, &mut near, 200_000).await;
        }
    }

    #[tokio::test]
    async fn a_direction_that_loses_bytes_leaves_the_other_alone_and_ends_when_it_is_healed() {
        let (link, mut near, mut far) = connection().await;
        link.set(Flow::Swallowed, Flow::Whole);
        near.write_all(b"lost").await.unwrap();
        carries(&mut far, &mut near, 1000).await;
        let mut byte = [0];
        assert_eq!(far.try_read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
        link.heal();
        assert!(near.read(&mut byte).await.is_err(), "it is reset");
        assert!(far.read(&mut byte).await.is_err(), "it is reset");
    }

    #[tokio::test]
    async fn a_stalled_cable_carries_later_and_a_cut_one_never() {
        let (link, mut near, mut far) = connection().await;
        link.stall();
        near.write_all(b"later").await.unwrap();
        link.heal();
        let mut come = [0; 5];
        far.read_exact(&mut come).await.unwrap();
        assert_eq!(&come, b"later");
        link.cut();
        assert!(near.read(&mut come).await.is_err(), "it is reset");
        assert!(far.read(&mut come).await.is_err(), "it is reset");
    }
}
