//! The MQTT node: client connections, clean sessions, local subscriptions.
