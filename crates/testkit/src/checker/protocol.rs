//! Rule `protocol`: no client saw anything that is not MQTT.

use super::world::World;
use super::{Findings, Rule};
use crate::record::What;

pub(super) fn check(world: &World<'_>, findings: &mut Findings<'_>) {
    for (place, event) in world.events.iter().enumerate() {
        let What::Violated { conn, text } = &event.what else { continue };
        let conn = world.places.get(conn).map(|&conn| &world.conns[conn]);
        let client = conn.map_or("nobody", |conn| conn.client_id);
        let shown: Vec<_> = conn.map(|conn| conn.connect).into_iter().chain([place]).collect();
        findings.add(Rule::Protocol, || format!("{client} saw {text}"), &shown);
    }
}
