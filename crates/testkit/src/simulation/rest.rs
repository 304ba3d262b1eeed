//! What must be so when nothing goes wrong any more and nobody sends anything.
//!
//! The clients stand still for some seconds: first until all that was on its way has come, then until the digests have
//! mended what is altered here.

use super::server::{Fault, Server};
use super::world::World;

/// Until all proxies are members: a lease, and the wait after a start.
const JOINED: u64 = 20_000_000;

/// Until nothing is on its way any more, in microseconds.
const DRAINED: u64 = 3_000_000;

/// Until the clients stand still again if it was not yet so.
const SILENT: u64 = 7_000_000;

/// Until it is noticed that a link is dead.
const NOTICED: u64 = 10_000_000;

/// How often it is looked.
const ATTEMPTS: u32 = 6;

/// Until each table was compared. With the other less than clients may be silent.
const COMPARED: u64 = 2_500_000;

/// Stops the clients, looks, and lets them go on.
///
/// # Errors
/// Something is not as it must be.
pub(super) fn look(world: &mut World) -> Result<(), Fault> {
    let (hub, latest) = (world.hub(), world.now + JOINED);
    while !world.servers[hub].serves(world.proxies())
        || !world.servers[..hub].iter().all(Server::is_served)
    {
        if world.now > latest {
            return Err(Fault("the intermediate does not serve everybody".to_owned()));
        }
        world.turn(u64::MAX)?;
    }
    let mut attempts = 0;
    loop {
        world.still = true;
        pass(world, DRAINED)?;
        attempts += 1;
        match world.servers.iter().try_for_each(Server::check_at_rest) {
            Ok(()) => break,
            Err(fault) if attempts == ATTEMPTS => return Err(fault),
            // A link may be dead without a word: that is noticed after some seconds.
            Err(_) => go_on(world),
        }
        pass(world, SILENT)?;
    }
    // What was altered behind a dead link is mended by the next one, and not counted.
    if world.now < world.link_failed + NOTICED {
        go_on(world);
        return Ok(());
    }
    for proxy in 0..world.proxies() {
        let name = proxy_name(proxy);
        if world.servers[hub].lose_route(&name) {
            world.net.lock().trace.step(
                world.now,
                [12, proxy as u64, 0],
                format_args!("a route of {name} is lost"),
            );
        }
    }
    pass(world, COMPARED)?;
    world.servers.iter().try_for_each(Server::check_at_rest)?;
    go_on(world);
    Ok(())
}

fn go_on(world: &mut World) {
    world.still = false;
    world.clients.wake_at(world.now);
}

/// The name of a proxy in the cluster.
pub(super) fn proxy_name(proxy: usize) -> String {
    format!("proxy-{proxy}")
}

fn pass(world: &mut World, micros: u64) -> Result<(), Fault> {
    let until = world.now + micros;
    while world.now < until {
        world.turn(until)?;
    }
    Ok(())
}
