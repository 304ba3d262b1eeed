//! The MQTT protocol of one client, without sockets or clocks.
