//! Process life: configuration, logs, metrics, signals, shutdown.
