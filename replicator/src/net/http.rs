//! The operators' socket: metrics, probes and status over HTTP/1.1.
//!
//! Invariants: every connection has a deadline for its request's headers and for its whole life,
//! and there are at most `MAX_CONNECTIONS` of them; request bodies are never read.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::leaving::Door;
use super::listen::{Listener, Stream};
use super::node::Node;

/// Probes and scrapers are few.
const MAX_CONNECTIONS: usize = 64;
/// For a request's headers to arrive, also on an idle connection.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Of a connection's whole life; after it, the request under way may end.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
/// For the last response of a connection that is being closed.
const LAST_RESPONSE_DEADLINE: Duration = Duration::from_secs(5);
/// Room for a request's headers.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";
const JSON_TYPE: &str = "application/json";
/// What a 404 or 405 says.
const PATHS: &str = "GET /metrics  metrics, Prometheus text format\n\
                     GET /livez    whether the process works\n\
                     GET /readyz   whether it should be sent traffic\n\
                     GET /healthz  the same as /livez\n\
                     GET /status   the node's status, JSON\n";

/// Serves until the door is to be closed, and returns when the last connection, asked to leave, has
/// its response.
pub async fn serve(listener: Listener, node: Arc<dyn Node>, mut door: Door) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let inside = door.inside();
    loop {
        let stream = tokio::select! {
            biased;
            () = door.closing() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            stream = listener.accept_patiently() => stream,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(peer = stream.peer(), "HTTP connection refused: there are too many");
            continue;
        };
        let (node, mut inside) = (Arc::clone(&node), inside.clone());
        connections.spawn(async move {
            let leaving = async move {
                let _ = inside.wait_for(|leaving| *leaving).await;
            };
            serve_connection(stream, node, leaving).await;
            drop(place);
        });
    }
    drop(listener);
    drop(door);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(stream: Stream, node: Arc<dyn Node>, leaving: impl Future<Output = ()>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, node.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = leaving => {}, () = sleep(CONNECTION_DEADLINE) => {} } } => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_RESPONSE_DEADLINE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

fn respond<B>(request: &Request<B>, node: &dyn Node) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let known = matches!(path, "/metrics" | "/livez" | "/healthz" | "/readyz" | "/status");
    if !known {
        return response(
            StatusCode::NOT_FOUND,
            TEXT_TYPE,
            format!("no such path; there are\n{PATHS}"),
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = format!("no such method; there are\n{PATHS}");
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT_TYPE, text);
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/metrics" => response(StatusCode::OK, METRICS_TYPE, node.metrics()),
        "/readyz" => probe(node.ready()),
        "/status" => match serde_json::to_string_pretty(&node.status()) {
            Ok(json) => response(StatusCode::OK, JSON_TYPE, json + "\n"),
            Err(error) => {
                response(StatusCode::INTERNAL_SERVER_ERROR, TEXT_TYPE, format!("{error}\n"))
            }
        },
        _ => probe(node.live()),
    }
}

fn probe(result: Result<(), String>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => response(StatusCode::OK, TEXT_TYPE, "ok\n".to_owned()),
        Err(reason) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, reason + "\n"),
    }
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use std::sync::atomic::Ordering;

    use quicksilver_format::Address;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::leaving::Leaving;
    use crate::net::node::NodeStatus;
    use crate::net::resp::memory_node::MemoryNode;

    async fn ask(address: &Address, request: &str) -> String {
        let mut stream = Stream::connect(address).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn every_path() {
        let node = MemoryNode::relay();
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_address().unwrap();
        let leaving = Leaving::new();
        let serving = tokio::spawn(serve(listener, node.clone(), leaving.door()));
        for (request, parts) in [
            ("GET /metrics", ["HTTP/1.1 200 ", "version=0.0.4", "quicksilver_keys 0\n"]),
            ("GET /livez", ["HTTP/1.1 200 ", "no-store", "ok\n"]),
            ("GET /healthz", ["HTTP/1.1 200 ", "no-store", "ok\n"]),
            ("GET /readyz?verbose", ["HTTP/1.1 200 ", "no-store", "ok\n"]),
            ("HEAD /livez", ["HTTP/1.1 200 ", "no-store", "\r\n\r\n"]),
            ("GET /", ["HTTP/1.1 404 ", "no such path", "GET /readyz"]),
            ("POST /status", ["HTTP/1.1 405 ", "allow: GET, HEAD", "GET /readyz"]),
        ] {
            let heard = ask(&address, request).await;
            for part in parts {
                assert!(heard.contains(part), "{request}: {heard}");
            }
        }
        let status = ask(&address, "GET /status").await;
        let body = status.split_once("\r\n\r\n").unwrap().1;
        let status: NodeStatus = serde_json::from_str(body).unwrap();
        assert_eq!(status, node.status());
        node.loading.store(true, Ordering::SeqCst);
        let heard = ask(&address, "GET /readyz").await;
        assert!(heard.contains("503") && heard.ends_with("no data yet\n"), "{heard}");
        // An idle connection does not hold up the end.
        let idle = Stream::connect(&address).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        leaving.close_doors().await;
        leaving.leave();
        timeout(CONNECTION_DEADLINE / 2, serving).await.unwrap().unwrap();
        drop(idle);
    }
}
