//! Connections that go on after their stream, or their proxy for a while, was away.

use mqtt_codec::QoS;
use partition::{Attach, Command, Effect, ProxyId, QueueSeq, Reattach, Refusal, Revocation};

use crate::rig::{Client, Rig, attach, holder, options, texts};

fn reattach(rig: &mut Rig, client: &Client) -> Result<Client, Refusal> {
    let request = rig.request();
    let attach = Attach { request, ..attach(client.id.as_str(), client.holder) };
    rig.run(Command::Reattach(Box::new(Reattach {
        attach,
        session: client.attached.session,
        epoch: client.attached.epoch,
        received_up_to: QueueSeq(0),
        group_deliveries: Vec::new(),
        groups: Vec::new(),
    })));
    rig.attached(request, client.id.clone(), client.holder)
}

#[test]
fn a_reattach_whose_answer_was_lost_may_come_again() {
    let mut rig = Rig::new();
    let client = rig.connect("a", holder(1, 1));
    rig.subscribe(&client, "t", QoS::AtLeastOnce);
    // Its proxy was taken for dead.
    rig.run(Command::ProxyDead(ProxyId(1)));
    rig.settle();
    let first = reattach(&mut rig, &client).unwrap();
    let second = reattach(&mut rig, &client).unwrap();
    assert_eq!(first.attached.epoch, second.attached.epoch);
    rig.reopen();
    let third = reattach(&mut rig, &client).unwrap();
    assert_eq!(first.attached.epoch, third.attached.epoch);
    rig.publish("t", "x", QoS::AtLeastOnce);
    assert_eq!(texts(&rig.take(1)), ["x"]);
    // Another connection has it now: there is nothing to come back to.
    let other = rig.connect("a", holder(2, 1));
    assert_eq!(reattach(&mut rig, &client).unwrap_err(), Refusal::Fenced);
    let (session, epoch) = (third.attached.session, third.attached.epoch);
    let why = Revocation::TakenOver;
    assert!(rig.told().contains(&Effect::Revoked { holder: holder(1, 1), session, epoch, why }));
    assert_ne!(other.attached.epoch, epoch);
}

#[test]
fn a_proxy_that_comes_back_while_it_is_buried_keeps_what_it_comes_back_with() {
    const CONNECTIONS: u64 = 2_000;
    let mut rig = Rig::new();
    let clients: Vec<Client> = (0..CONNECTIONS)
        .map(|number| rig.connect(&format!("c{number}"), holder(1, number)))
        .collect();
    for client in [clients.first(), clients.last()].into_iter().flatten() {
        rig.subscribe_with(client, &[("t", options(QoS::AtLeastOnce))], None);
    }
    rig.run(Command::ProxyDead(ProxyId(1)));
    for client in &clients {
        reattach(&mut rig, client).unwrap();
    }
    let newcomer = rig.connect("new", holder(1, CONNECTIONS));
    rig.settle();
    for client in clients.iter().chain([&newcomer]) {
        let held = rig.owner.holder_of(&client.id);
        assert_eq!(held.map(|(holder, _, _)| holder), Some(client.holder));
    }
    rig.publish("t", "x", QoS::AtLeastOnce);
    assert_eq!(texts(&rig.take(1)), ["x", "x"]);
}
