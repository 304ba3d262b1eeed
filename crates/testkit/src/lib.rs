//! Raw MQTT client, whole clusters in one process, delivery checker.
