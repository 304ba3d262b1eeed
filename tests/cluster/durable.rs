//! What the cluster remembers, whichever proxy a client comes to: sessions, retained messages, wills
//! and groups. Servers in this process, over real gRPC; nothing is killed here.

use std::time::Duration;

use mqtt_codec::{
    Ack, Connect, Packet, Publish, QoS, ReasonCode, RetainHandling, SubscriptionOptions, Version,
    Will,
};
use testkit::{Cluster, RawClient, elapse, persistent};

use crate::support::{BOTH, LEVELS, at, client, name, readiness, subscriber, topic_of};

/// A client whose session outlives its connection.
#[track_caller]
fn kept(
    cluster: &Cluster,
    proxy: usize,
    version: Version,
    id: &str,
) -> impl Future<Output = RawClient> + use<> {
    cluster.proxy(proxy).connect(version, id, persistent)
}

fn with_will(topic: &str, payload: &str, delay_secs: u32) -> impl FnOnce(&mut Connect) + use<> {
    let mut message = crate::support::message(topic, payload);
    message.qos = QoS::AtLeastOnce;
    move |connect| connect.will = Some(Will { message, delay_secs })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_at_any_proxy_with_what_came_meanwhile() {
    let cluster = Cluster::start(2, 1).await;
    for version in BOTH {
        let (id, topic) = (name("kept"), name("kept"));
        let mut first = kept(&cluster, 0, version, &id).await;
        assert!(!first.connack().session_present);
        first.subscribe(&topic, QoS::ExactlyOnce).await;
        first.disconnect().await;
        let mut publisher = client(&cluster, 0, Version::V5).await;
        for number in 0..10 {
            for qos in LEVELS {
                publisher.publish(&topic, qos, format!("{number} {qos:?}")).await;
            }
        }
        let mut second = kept(&cluster, 1, version, &id).await;
        assert!(second.connack().session_present);
        for number in 0..10 {
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let got = second.expect_message(format!("{number} {qos:?}")).await;
                assert!(got.qos == qos && !got.dup, "{got:?}");
            }
        }
        publisher.publish(&topic, QoS::AtMostOnce, "live").await;
        second.expect_message("live").await;
        second.disconnect().await;
        let mut third = kept(&cluster, 0, version, &id).await;
        assert!(third.connack().session_present);
        publisher.publish(&topic, QoS::AtLeastOnce, "last").await;
        third.expect_message("last").await;
        third.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_follows_the_client_under_its_packet_identifier() {
    let cluster = Cluster::start(2, 1).await;
    for version in BOTH {
        let (id, topic) = (name("flight"), name("flight"));
        let mut first = kept(&cluster, 0, version, &id).await;
        first.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut publisher = client(&cluster, 1, version).await;
        let mut sent = Vec::new();
        for (number, qos) in LEVELS.iter().cycle().skip(1).take(9).enumerate() {
            publisher.publish(&topic, *qos, format!("{number}")).await;
            let publish = first.expect_publish().await;
            assert!(!publish.dup);
            sent.extend((*qos > QoS::AtMostOnce).then_some(publish));
        }
        // The second one is acknowledged, before those around it.
        first.accept(&sent.remove(1)).await;
        first.expect_nothing().await;
        first.disconnect().await;
        let mut second = kept(&cluster, 1, version, &id).await;
        for publish in &sent {
            let again = second.expect_publish().await;
            assert_eq!(again, Publish { dup: true, ..publish.clone() });
            second.accept(&again).await;
        }
        second.expect_nothing().await;
        second.disconnect().await;
        let mut third = kept(&cluster, 0, version, &id).await;
        publisher.publish(&topic, QoS::ExactlyOnce, "new").await;
        third.expect_message("new").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_received_is_only_released_again_at_the_next_proxy() {
    let cluster = Cluster::start(2, 1).await;
    for version in BOTH {
        let (id, topic) = (name("released"), name("released"));
        let mut first = kept(&cluster, 0, version, &id).await;
        first.subscribe(&topic, QoS::ExactlyOnce).await;
        client(&cluster, 1, version).await.publish(&topic, QoS::ExactlyOnce, "once").await;
        let publish = first.expect_publish().await;
        let packet_id = publish.packet_id.expect("it has QoS 2");
        first.send(Packet::PubRec(Ack::new(packet_id, ReasonCode::Success))).await;
        assert!(matches!(first.recv().await, Packet::PubRel(ack) if ack.packet_id == packet_id));
        drop(first);
        let mut second = kept(&cluster, 1, version, &id).await;
        assert!(second.connack().session_present);
        assert!(matches!(second.recv().await, Packet::PubRel(ack) if ack.packet_id == packet_id));
        second.send(Packet::PubComp(Ack::new(packet_id, ReasonCode::Success))).await;
        second.expect_nothing().await;
        second.disconnect().await;
        kept(&cluster, 0, version, &id).await.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_message_repeated_at_another_proxy_is_one_message() {
    let cluster = Cluster::start(3, 1).await;
    for version in BOTH {
        let (id, topic) = (name("once"), name("once"));
        let mut clean = subscriber(&cluster, 2, version, &topic, QoS::ExactlyOnce).await;
        let mut near = subscriber(&cluster, 1, version, &topic, QoS::ExactlyOnce).await;
        let mut stored = kept(&cluster, 2, version, &name("stored")).await;
        stored.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut first = kept(&cluster, 0, version, &id).await;
        let mut publish = first.new_publish(&topic, QoS::ExactlyOnce, "once");
        let packet_id = publish.packet_id.expect("it has QoS 2");
        first.send(Packet::Publish(publish.clone())).await;
        assert!(matches!(first.recv().await, Packet::PubRec(ack) if ack.packet_id == packet_id));
        drop(first);
        for subscriber in [&mut clean, &mut near, &mut stored] {
            subscriber.expect_message("once").await;
        }
        let mut second = kept(&cluster, 1, version, &id).await;
        publish.dup = true;
        second.send(Packet::Publish(publish)).await;
        assert!(matches!(second.recv().await, Packet::PubRec(ack) if ack.packet_id == packet_id));
        second.send(Packet::PubRel(Ack::new(packet_id, ReasonCode::Success))).await;
        assert!(matches!(second.recv().await, Packet::PubComp(ack) if ack.packet_id == packet_id));
        // Released, the identifier stands for another message.
        let mut other = second.new_publish(&topic, QoS::ExactlyOnce, "twice");
        other.packet_id = Some(packet_id);
        second.publish_with(other).await;
        for subscriber in [&mut clean, &mut near, &mut stored] {
            subscriber.expect_message("twice").await;
            subscriber.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_0_message_behind_one_that_waits_for_the_store_is_not_lost_with_the_connection() {
    let mut cluster = Cluster::start(1, 1).await;
    let topic = name("behind");
    let mut clean = subscriber(&cluster, 0, Version::V5, &topic, QoS::ExactlyOnce).await;
    let mut publisher = kept(&cluster, 0, Version::V5, &name("behind")).await;
    cluster.kill_intermediate(0).await;
    for (qos, payload) in [(QoS::ExactlyOnce, "waits"), (QoS::AtMostOnce, "behind")] {
        let publish = publisher.new_publish(&topic, qos, payload);
        publisher.send(Packet::Publish(publish)).await;
    }
    publisher.disconnect().await;
    clean.expect_message("behind").await;
    clean.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_identifier_has_one_connection_in_the_cluster() {
    let cluster = Cluster::start(2, 1).await;
    let clean: fn(&mut Connect) = |_| {};
    for version in BOTH {
        for (older, newer) in [
            (clean, clean),
            (clean, persistent as _),
            (persistent as _, clean),
            (persistent, persistent),
        ] {
            let id = name("taken");
            let mut first = cluster.proxy(0).connect(version, &id, older).await;
            let mut second = cluster.proxy(1).connect(version, &id, newer).await;
            first.expect_end(ReasonCode::SessionTakenOver).await;
            second.expect_nothing().await;
            let mut third = cluster.proxy(0).connect(version, &id, older).await;
            second.expect_end(ReasonCode::SessionTakenOver).await;
            third.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_ends_the_session_wherever_it_was() {
    let cluster = Cluster::start(2, 1).await;
    for version in BOTH {
        let (id, topic) = (name("clean"), name("clean"));
        let mut first = kept(&cluster, 0, version, &id).await;
        first.subscribe(&topic, QoS::AtLeastOnce).await;
        first.disconnect().await;
        let mut publisher = client(&cluster, 0, version).await;
        publisher.publish(&topic, QoS::AtLeastOnce, "forgotten").await;
        let mut second = cluster.proxy(1).connect(version, &id, |_| {}).await;
        assert!(!second.connack().session_present);
        publisher.publish(&topic, QoS::AtLeastOnce, "nobody is subscribed").await;
        second.expect_nothing().await;
        second.disconnect().await;
        let mut third = kept(&cluster, 0, version, &id).await;
        assert!(!third.connack().session_present);
        third.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_message_expires_and_the_others_say_what_is_left() {
    let cluster = Cluster::start(2, 1).await;
    let (id, topic) = (name("expiry"), name("expiry"));
    let mut subscriber = kept(&cluster, 0, Version::V5, &id).await;
    subscriber.subscribe(&topic, QoS::AtLeastOnce).await;
    subscriber.disconnect().await;
    let mut publisher = client(&cluster, 1, Version::V5).await;
    for (payload, expiry_secs) in [("short", 1), ("long", 100)] {
        let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, payload);
        publish.expiry_secs = Some(expiry_secs);
        publisher.publish_with(publish).await;
    }
    elapse(Duration::from_millis(1500)).await;
    let mut subscriber = kept(&cluster, 1, Version::V5, &id).await;
    let got = subscriber.expect_message("long").await;
    assert!(got.expiry_secs.is_some_and(|left| (80..100).contains(&left)), "{got:?}");
    subscriber.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_are_known_at_every_proxy_also_at_one_that_starts_later() {
    let mut cluster = Cluster::start(2, 1).await;
    let base = name("retained");
    let mut publisher = client(&cluster, 0, Version::V5).await;
    for number in 0..300 {
        let qos = LEVELS[number % 3];
        let mut publish = publisher.new_publish(&format!("{base}/{number:03}"), qos, "old");
        publish.retain = true;
        publisher.publish_with(publish.clone()).await;
        if number % 3 > 0 {
            publish =
                publisher.new_publish(&format!("{base}/{number:03}"), qos, format!("{number}"));
            publish.retain = true;
            publisher.publish_with(publish).await;
        }
    }
    let mut deleted = publisher.new_publish(&format!("{base}/001"), QoS::AtLeastOnce, "");
    deleted.retain = true;
    publisher.publish_with(deleted).await;
    let later = cluster.add_proxy().await;
    readiness(cluster.proxy(later), 200).await;
    let expected: Vec<usize> = (0..300).filter(|number| number % 3 > 0 && *number != 1).collect();
    for (proxy, version) in [(1, Version::V5), (later, Version::V3_1_1)] {
        for change in [persistent as fn(&mut Connect), |_| {}] {
            let mut subscriber = cluster.proxy(proxy).connect(version, &name("late"), change).await;
            subscriber.subscribe(&format!("{base}/+"), QoS::AtLeastOnce).await;
            let mut got = Vec::new();
            while got.len() < expected.len() {
                let publish = subscriber.expect_publish().await;
                subscriber.accept(&publish).await;
                assert!(publish.retain, "{publish:?}");
                let number: usize = topic_of(&publish).rsplit('/').next().unwrap().parse().unwrap();
                // The first of three was published with QoS 0, which promises nothing.
                if !number.is_multiple_of(3) {
                    assert_eq!(publish.payload, number.to_string());
                    got.push(number);
                }
            }
            got.sort_unstable();
            assert_eq!(got, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_handling_knows_the_subscriptions_of_a_resumed_session() {
    let cluster = Cluster::start(2, 1).await;
    let (id, topic) = (name("handling"), name("handling"));
    let mut publisher = client(&cluster, 0, Version::V5).await;
    let mut publish = publisher.new_publish(&topic, QoS::AtLeastOnce, "kept");
    publish.retain = true;
    publisher.publish_with(publish).await;
    let new_only =
        SubscriptionOptions { retain_handling: RetainHandling::SendIfNew, ..at(QoS::AtLeastOnce) };
    let mut first = kept(&cluster, 0, Version::V5, &id).await;
    first.subscribe_with(&[(&topic, new_only)], None).await;
    first.expect_message("kept").await;
    first.disconnect().await;
    let mut second = kept(&cluster, 1, Version::V5, &id).await;
    second.subscribe_with(&[(&topic, new_only)], None).await;
    publisher.publish(&topic, QoS::AtLeastOnce, "live").await;
    second.expect_message("live").await;
    second.subscribe_with(&[(&topic, at(QoS::AtLeastOnce))], None).await;
    second.expect_message("kept").await;
    second.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_published_once_everywhere_and_not_after_a_goodbye() {
    let cluster = Cluster::start(3, 1).await;
    for version in BOTH {
        let topic = name("will");
        let mut near = subscriber(&cluster, 0, version, &topic, QoS::AtLeastOnce).await;
        let mut far = subscriber(&cluster, 1, version, &topic, QoS::AtLeastOnce).await;
        let mut stored = kept(&cluster, 2, version, &name("stored")).await;
        stored.subscribe(&topic, QoS::AtLeastOnce).await;
        let mortal =
            cluster.proxy(0).connect(version, &name("mortal"), with_will(&topic, "lost", 0));
        drop(mortal.await);
        for subscriber in [&mut near, &mut far, &mut stored] {
            subscriber.expect_message("lost").await;
        }
        let polite = cluster.proxy(0).connect(version, &name("polite"), with_will(&topic, "no", 0));
        polite.await.disconnect().await;
        client(&cluster, 1, version).await.publish(&topic, QoS::AtLeastOnce, "after").await;
        for subscriber in [&mut near, &mut far, &mut stored] {
            subscriber.expect_message("after").await;
            subscriber.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_that_waits_is_dropped_when_its_client_comes_back_at_another_proxy() {
    let cluster = Cluster::start(2, 1).await;
    let (id, topic) = (name("delayed"), name("delayed"));
    let mut watcher = subscriber(&cluster, 1, Version::V5, &topic, QoS::AtLeastOnce).await;
    let will = with_will(&topic, "gone", 1);
    let mortal = cluster.proxy(0).connect(Version::V5, &id, |connect| {
        persistent(connect);
        will(connect);
    });
    drop(mortal.await);
    let back = kept(&cluster, 1, Version::V5, &id).await;
    assert!(back.connack().session_present);
    elapse(Duration::from_millis(1600)).await;
    watcher.expect_nothing().await;
    back.disconnect().await;
    let will = with_will(&topic, "late", 1);
    drop(
        cluster
            .proxy(0)
            .connect(Version::V5, &name("mortal"), |connect| {
                persistent(connect);
                will(connect);
            })
            .await,
    );
    watcher.expect_message("late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_at_several_proxies_share_the_messages() {
    const COUNT: usize = 60;
    let cluster = Cluster::start(3, 1).await;
    for version in BOTH {
        for qos in LEVELS {
            let topic = name("shared");
            let filter = format!("$share/group/{topic}");
            let mut members = Vec::new();
            for proxy in 0..3 {
                members.push(subscriber(&cluster, proxy, version, &filter, qos).await);
            }
            let mut publisher = client(&cluster, 0, version).await;
            for number in 0..COUNT {
                publisher.publish(&topic, qos, format!("{number}")).await;
            }
            let mut seen = Vec::new();
            for member in &mut members {
                // Each gets its turn, and all is given out.
                for _ in 0..COUNT / 3 {
                    let publish = member.expect_publish().await;
                    assert_eq!(publish.qos, qos);
                    seen.push(String::from_utf8(publish.payload.to_vec()).unwrap());
                    member.accept(&publish).await;
                }
            }
            seen.sort_unstable_by_key(|payload| payload.parse::<usize>().unwrap());
            assert_eq!(seen, (0..COUNT).map(|number| number.to_string()).collect::<Vec<_>>());
            for member in &mut members {
                member.expect_nothing().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_did_not_acknowledge_goes_to_another_when_it_leaves() {
    let cluster = Cluster::start(2, 1).await;
    for version in BOTH {
        for change in [persistent as fn(&mut Connect), |_| {}] {
            let topic = name("left");
            let filter = format!("$share/group/{topic}");
            let mut leaving = cluster.proxy(0).connect(version, &name("leaving"), change).await;
            leaving.subscribe(&filter, QoS::AtLeastOnce).await;
            let mut publisher = client(&cluster, 1, version).await;
            for number in 0..5 {
                publisher.publish(&topic, QoS::AtLeastOnce, format!("{number}")).await;
                leaving.expect_publish().await;
            }
            let mut staying = subscriber(&cluster, 1, version, &filter, QoS::AtLeastOnce).await;
            drop(leaving);
            for number in 0..5 {
                staying.expect_message(format!("{number}")).await;
            }
            staying.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_clean_sessions_go_on_and_kept_ones_are_told_to_wait() {
    let plan = Cluster::plan(2, 1).proxies_with(|config| {
        config.session.attach_timeout = Duration::from_millis(300).into();
    });
    let mut cluster = plan.start().await;
    let (id, topic) = (name("away"), name("away"));
    let mut stays = kept(&cluster, 0, Version::V5, &id).await;
    stays.subscribe(&topic, QoS::ExactlyOnce).await;
    let mut listener = subscriber(&cluster, 0, Version::V5, &topic, QoS::AtLeastOnce).await;
    cluster.kill_intermediate(0).await;
    readiness(cluster.proxy(0), 503).await;
    let mut clean = client(&cluster, 0, Version::V5).await;
    clean.publish(&topic, QoS::AtMostOnce, "near").await;
    listener.expect_message("near").await;
    for version in BOTH {
        let mut refused = cluster.proxy(0).open(version).await;
        let mut connect = testkit::connect_packet(version, &name("refused"));
        persistent(&mut connect);
        refused.send(Packet::Connect(Box::new(connect))).await;
        let Packet::ConnAck(connack) = refused.recv().await else { panic!("expected CONNACK") };
        assert_eq!(connack.reason, ReasonCode::ServerUnavailable);
    }
    cluster.restart_intermediate(0).await;
    readiness(cluster.proxy(0), 200).await;
    clean.publish(&topic, QoS::ExactlyOnce, "back").await;
    stays.expect_message("back").await;
    listener.expect_message("back").await;
    stays.disconnect().await;
    clean.publish(&topic, QoS::AtLeastOnce, "kept").await;
    kept(&cluster, 1, Version::V5, &id).await.expect_message("kept").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_drops_the_newest_or_drops_the_oldest_as_configured() {
    use intermediate_server::config::WhenFull as FullPolicy;
    for (policy, kept_numbers) in [
        (FullPolicy::RejectNew, [0, 1, 2]),
        (FullPolicy::DropNewest, [0, 1, 2]),
        (FullPolicy::DropOldest, [2, 3, 4]),
    ] {
        let plan = Cluster::plan(1, 1).intermediates_with(move |config| {
            config.inbox.messages = 3;
            config.inbox.when_full = policy;
        });
        let cluster = plan.start().await;
        let (id, topic) = (name("full"), name("full"));
        let mut subscriber = kept(&cluster, 0, Version::V5, &id).await;
        subscriber.subscribe(&topic, QoS::AtLeastOnce).await;
        subscriber.disconnect().await;
        let mut publisher = client(&cluster, 0, Version::V5).await;
        for number in 0..5 {
            let publish = publisher.new_publish(&topic, QoS::AtLeastOnce, format!("{number}"));
            let reason = publisher.publish_with(publish).await;
            let refused = policy == FullPolicy::RejectNew && number >= 3;
            assert_eq!(
                reason == ReasonCode::QuotaExceeded,
                refused,
                "{policy:?} {number}: {reason:?}"
            );
        }
        let mut subscriber = kept(&cluster, 0, Version::V5, &id).await;
        for number in kept_numbers {
            subscriber.expect_message(format!("{number}")).await;
        }
        subscriber.expect_nothing().await;
    }
}
