//! Ports for the servers: the ones asked for, checked, and free ones.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, bail};

/// `count` addresses from `base` on, after checking that nobody listens there.
///
/// # Errors
/// Names the first port that is in use or does not exist.
pub(super) fn consecutive(host: IpAddr, base: u16, count: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for offset in 0..count {
        let port = base.checked_add(offset).with_context(|| {
            format!("{count} ports from {base} on do not exist: give a lower --base-port")
        })?;
        let address = SocketAddr::new(host, port);
        match TcpListener::bind(address) {
            Ok(_) => addresses.push(address),
            Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
                "port {port} of {host} is in use: stop what listens there, or give other ports \
                 with --base-port"
            ),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!("port {port} is not allowed for this user: give others with --base-port")
            }
            Err(error) => return Err(error).context(format!("cannot listen on {address}")),
        }
    }
    Ok(addresses)
}

/// `count` different ports of this machine that nobody listens on.
pub(super) fn free(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    // All are held until all are known: else the system could give one twice.
    let held = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("cannot find a free port")?;
    held.iter().map(|listener| listener.local_addr().context("cannot find a free port")).collect()
}
