//! The admin listener: `GET /metrics`, `/livez`, `/readyz`.
//!
//! Ready means that every named condition holds; `/readyz` says which one does not and why. What
//! the conditions are is the server's business.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long answers that are on their way are waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The readiness of a process: the sum of its named conditions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<&'static str, Reading>>>,
}

/// A handle on one condition of a [`Health`].
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    health: Health,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Reading {
    ok: bool,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Readiness<'a> {
    ready: bool,
    conditions: &'a BTreeMap<&'static str, Reading>,
}

impl Health {
    /// A health without conditions: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The condition called `name`; it does not hold until it is set.
    pub fn condition(&self, name: &'static str) -> Condition {
        let starting = || Reading { ok: false, detail: "starting".to_owned() };
        self.lock().entry(name).or_insert_with(starting);
        Condition { name, health: self.clone() }
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|reading| reading.ok)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Reading>> {
        // The map is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_json(&self) -> (bool, String) {
        let conditions = self.lock();
        let ready = conditions.values().all(|reading| reading.ok);
        let answer = Readiness { ready, conditions: &conditions };
        let text = serde_json::to_string(&answer).expect("strings and booleans are JSON");
        (ready, text)
    }
}

impl Condition {
    /// Says whether the condition holds, and why or since what. A change is logged.
    pub fn set(&self, ok: bool, detail: impl Into<String>) {
        let reading = Reading { ok, detail: detail.into() };
        let before = self.health.lock().insert(self.name, reading.clone());
        if before.is_none_or(|before| before.ok != ok) {
            tracing::info!(condition = self.name, ok, detail = reading.detail, "readiness");
        }
    }
}

/// Serves the admin interface on `listener` until `shutdown`.
pub fn serve_admin(
    listener: TcpListener,
    registry: Arc<Registry>,
    health: Health,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(health))
        .route("/metrics", get(metrics).with_state(registry));
    tokio::spawn(async move {
        let stop = shutdown.clone();
        let server = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let deadline = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            result = server.into_future() => {
                if let Err(error) = result {
                    tracing::error!(%error, "the admin listener failed");
                }
            }
            () = deadline => {}
        }
    })
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let (ready, text) = health.to_json();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], text)
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("{error}\n"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readyz_is_503_until_every_condition_holds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::new();
        let listening = health.condition("listening");
        let routes = health.condition("routes");
        let shutdown = CancellationToken::new();
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("sent", "Messages sent", counter.clone());
        counter.inc();
        let server = serve_admin(listener, Arc::new(registry), health, shutdown.clone());

        listening.set(true, "");
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let body = r#"{"ready":false,"conditions":{"listening":{"ok":true,"detail":""},"routes":{"ok":false,"detail":"starting"}}}"#;
        assert!(answer.ends_with(body), "{answer}");

        routes.set(true, "2 members");
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#""ready":true"#), "{answer}");

        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("sent_total 1\n# EOF\n"), "{answer}");

        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
    }
}
