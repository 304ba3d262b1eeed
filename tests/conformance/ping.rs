//! Section 3.12 and 3.13: PINGREQ and PINGRESP.

use mqtt_codec::Packet;

use crate::support::{ALL, client};

/// [MQTT-3.12.4-1] [MQTT311-3.12.4-1] A PINGREQ is answered by a PINGRESP, each one.
#[tokio::test]
async fn every_pingreq_is_answered() {
    for version in ALL {
        let mut client = client(version, "ping").await;
        client.send_bytes(&[0xC0, 0, 0xC0, 0, 0xC0, 0]).await;
        for _ in 0..3 {
            assert_eq!(client.recv().await, Packet::PingResp);
        }
        client.expect_nothing().await;
    }
}

/// [MQTT-3.12.4-1] [MQTT311-3.12.4-1] The answer is two bytes, and a PINGREQ may come in two pieces.
#[tokio::test]
async fn a_pingreq_in_two_pieces_is_answered_with_two_bytes() {
    for version in ALL {
        let mut client = client(version, "ping").await;
        client.send_bytes(&[0xC0]).await;
        client.send_bytes(&[0]).await;
        assert_eq!(client.recv_bytes(2).await.as_ref(), [0xD0, 0]);
    }
}
