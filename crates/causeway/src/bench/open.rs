//! Opens connections: TCP, CONNECT, and SUBSCRIBE where asked, several at a time. It ends where
//! the load begins; nothing here is on a hot path.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use mqtt_codec::QoS;
use socket2::{Domain, Protocol, Socket, Type};

use super::wire::{Frame, Granted, Login, first, subscribe};

/// How long a broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections of one source address: fewer than the ports the kernel hands out by itself.
const PER_SOURCE: usize = 20_000;
/// Connections being opened at the same time.
const PARALLEL: usize = 8;

/// A connection to be.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) broker: SocketAddr,
    pub(super) client_id: String,
    pub(super) filters: Vec<String>,
    pub(super) qos: QoS,
    pub(super) stay: Stay,
}

/// Whether a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Clean,
    Kept,
}

/// A connection that is ready for its role.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) socket: TcpStream,
    pub(super) granted: Granted,
}

/// The address behind `HOST:PORT`.
pub(super) fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = address.to_socket_addrs().with_context(|| format!("cannot find {address}"))?;
    found.next().ok_or_else(|| anyhow!("{address} has no address"))
}

/// Opens all connections, in the order of `jobs`; the first failure ends it.
pub(super) fn open_all(
    jobs: &[Job],
    login: &Login,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Opened>> {
    let failed = AtomicBool::new(false);
    let share = jobs.len().div_ceil(PARALLEL).max(1);
    let open_share = |start: usize, jobs: &[Job]| {
        let mut opened = Vec::with_capacity(jobs.len());
        for (at, job) in jobs.iter().enumerate() {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            let done = open(job, login, start + at);
            failed.fetch_or(done.is_err(), Ordering::Relaxed);
            opened
                .push(done.with_context(|| format!("cannot open a connection to {}", job.broker))?);
            bar.inc(1);
        }
        anyhow::Ok(opened)
    };
    let shares = thread::scope(|scope| {
        let open_share = &open_share;
        let chunks = jobs.chunks(share).enumerate();
        let threads: Vec<_> =
            chunks.map(|(at, jobs)| scope.spawn(move || open_share(at * share, jobs))).collect();
        threads.into_iter().map(|thread| thread.join().expect("opening does not panic")).collect()
    });
    let shares: Vec<anyhow::Result<Vec<Opened>>> = shares;
    let opened: anyhow::Result<Vec<Vec<Opened>>> = shares.into_iter().collect();
    Ok(opened?.into_iter().flatten().collect())
}

/// Opens the connection with this number.
pub(super) fn open(job: &Job, login: &Login, number: usize) -> anyhow::Result<Opened> {
    let mut socket = dial(job.broker, number)?;
    socket.write_all(&login.connect(&job.client_id, job.stay)).context("cannot send CONNECT")?;
    let connack = read_packet(&mut socket, first::CONNACK)?;
    let frame = Frame::cut(&connack)?.context("a CONNACK cut short")?;
    let granted = frame.connack(login.version)?;
    if !job.filters.is_empty() {
        let bytes = subscribe(login.version, &job.filters, job.qos);
        socket.write_all(&bytes).context("cannot send SUBSCRIBE")?;
        let suback = read_packet(&mut socket, first::SUBACK)?;
        let frame = Frame::cut(&suback)?.context("a SUBACK cut short")?;
        frame.suback(login.version, job.qos)?;
    }
    Ok(Opened { socket, granted })
}

fn dial(broker: SocketAddr, number: usize) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(broker), Type::STREAM, Some(Protocol::TCP))
        .context("cannot make a socket (see `ulimit -n`)")?;
    let source = number / PER_SOURCE;
    if source > 0 && broker.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let last = u8::try_from(source + 1).context("too many connections")?;
        let address = SocketAddr::from(([127, 0, 0, last], 0));
        socket.bind(&address.into()).with_context(|| format!("cannot bind to {address}"))?;
    }
    socket.connect_timeout(&broker.into(), PATIENCE).context("no connection")?;
    socket.set_tcp_nodelay(true).context("cannot set TCP_NODELAY")?;
    socket.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    Ok(socket.into())
}

/// Reads one packet, byte-exact: what follows belongs to the event loop.
fn read_packet(socket: &mut TcpStream, expected: u8) -> anyhow::Result<Vec<u8>> {
    let mut packet = vec![0; 2];
    socket.read_exact(&mut packet).context("the broker did not answer")?;
    let mut last = 1;
    while packet.get(last).is_some_and(|byte| byte & 0x80 != 0) && last < 4 {
        last += 1;
        packet.push(0);
        read_tail(socket, &mut packet, last)?;
    }
    let lengths = packet.get(1..).unwrap_or_default().iter().rev();
    let body_len = lengths.fold(0, |sum, byte| (sum << 7) | usize::from(byte & 0x7F));
    let head_len = packet.len();
    packet.resize(head_len + body_len, 0);
    read_tail(socket, &mut packet, head_len)?;
    let kind = packet.first().map_or(0, |first| first & 0xF0);
    if kind != expected {
        bail!("the broker sent a packet of type {kind:#04x} instead of {expected:#04x}");
    }
    Ok(packet)
}

fn read_tail(socket: &mut TcpStream, packet: &mut [u8], from: usize) -> anyhow::Result<()> {
    let tail = packet.get_mut(from..).unwrap_or_default();
    socket.read_exact(tail).context("the broker's answer was cut short")
}
