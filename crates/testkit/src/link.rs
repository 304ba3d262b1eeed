//! A cable between two processes on loopback that a test can cut, stall and heal.
//!
//! Forwards bytes and knows nothing of them. Bytes that were accepted before a stall arrive after
//! it; bytes under way when it is cut are lost, as on a network.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cable {
    Whole,
    /// Connections end, and new ones end at once.
    Cut,
    /// Connections stay and carry nothing.
    Stalled,
}

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
        let (cable, state) = watch::channel(Cable::Whole);
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
        self.cable.send_replace(Cable::Stalled);
    }

    /// Carries everything again.
    pub fn heal(&self) {
        self.cable.send_replace(Cable::Whole);
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

async fn connect(near: TcpStream, target: SocketAddr, state: watch::Receiver<Cable>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("a connected socket takes the option");
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::join!(pump(near_read, far_write, state.clone()), pump(far_read, near_write, state));
}

/// Ends, and with that closes its half, when the cable is cut or either side is done.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<Cable>) {
    let mut cut = state.clone();
    let mut flowing = state;
    let carry = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return };
            if flowing.wait_for(|cable| *cable != Cable::Stalled).await.is_err()
                || to.write_all(bytes).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = carry => {}
        _ = cut.wait_for(|cable| *cable == Cable::Cut) => {}
    }
}
