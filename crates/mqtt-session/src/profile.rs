//! What a server offers its clients, and the checks that need nothing else.

use bytestring::ByteString;
use mqtt_codec::{PublishProperties, QoS, ReasonCode, ReceiveMaximum, TopicName};

/// What this server offers; from configuration, one for all clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProfile {
    /// Most unacknowledged QoS 1 and 2 messages taken from one client; also how many requests of
    /// one client may be unanswered before its input rests.
    pub receive_maximum: ReceiveMaximum,
    /// Largest packet taken, in bytes. The decoder enforces it; here it is only announced.
    pub maximum_packet_size: u32,
    /// Highest topic alias a client may use; 0 for none.
    pub topic_alias_maximum: u16,
    /// Most topic aliases used towards one client that allows them; at most 64 are.
    pub outbound_topic_alias_maximum: u16,
    /// Most unacknowledged deliveries to one client, whatever it allows.
    pub inflight_maximum: u16,
    /// Highest QoS of a PUBLISH, a will or a subscription.
    pub maximum_qos: QoS,
    /// Whether retained messages are kept.
    pub retain_available: bool,
    /// Whether filters may have wildcards.
    pub wildcard_subscriptions: bool,
    /// Whether subscriptions may have identifiers.
    pub subscription_ids: bool,
    /// Whether `$share/` subscriptions are allowed.
    pub shared_subscriptions: bool,
    /// Keep alive imposed on every client that can be told; 0 turns it off for them.
    pub server_keep_alive_secs: Option<u16>,
    /// Longest keep alive a client that can be told may have; 0 for any.
    pub maximum_keep_alive_secs: u16,
    /// Longest a session outlives its connection; `u32::MAX` for ever.
    pub maximum_session_expiry_secs: u32,
    /// Told to clients that ask for it.
    pub response_information: Option<ByteString>,
    /// Whether payloads declared as text must be UTF-8.
    pub check_payload_format: bool,
    /// Most levels of a topic name or filter; 0 for any.
    pub maximum_topic_levels: u16,
    /// Whether clients may leave it to the server to choose their identifier.
    pub allow_empty_client_id: bool,
    /// Longest client identifier in bytes. The standard wants at least 23 `[MQTT-3.1.3-5]`.
    pub maximum_client_id_bytes: u16,
}

impl Default for ServerProfile {
    fn default() -> Self {
        Self {
            receive_maximum: ReceiveMaximum::new(1024).unwrap_or_default(),
            maximum_packet_size: 1024 * 1024,
            topic_alias_maximum: 16,
            outbound_topic_alias_maximum: 16,
            inflight_maximum: 1024,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcard_subscriptions: true,
            subscription_ids: true,
            shared_subscriptions: true,
            server_keep_alive_secs: None,
            maximum_keep_alive_secs: 0,
            maximum_session_expiry_secs: u32::MAX,
            response_information: None,
            check_payload_format: false,
            maximum_topic_levels: 128,
            allow_empty_client_id: true,
            maximum_client_id_bytes: u16::MAX,
        }
    }
}

impl ServerProfile {
    /// Why a message, by PUBLISH or by will, is not taken although it is well-formed.
    pub(crate) fn objection(
        &self,
        topic: &TopicName,
        payload: &[u8],
        properties: &PublishProperties,
    ) -> Option<ReasonCode> {
        if !self.takes_levels(topic.as_str()) {
            return Some(ReasonCode::TopicNameInvalid);
        }
        let text = || properties.payload_format() == Some(1);
        if self.check_payload_format && text() && std::str::from_utf8(payload).is_err() {
            return Some(ReasonCode::PayloadFormatInvalid);
        }
        None
    }

    /// Whether `topic`, a name or a filter, has no more levels than allowed.
    pub(crate) fn takes_levels(&self, topic: &str) -> bool {
        let maximum = usize::from(self.maximum_topic_levels);
        // A topic has at most one level more than it has bytes: short ones need no count.
        if maximum == 0 || topic.len() < maximum {
            return true;
        }
        topic.bytes().filter(|&byte| byte == b'/').count() < maximum
    }
}
