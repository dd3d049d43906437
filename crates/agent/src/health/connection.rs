//! One connection, one request, one answer.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::Answer;

/// How long a client may take to send the head of its request.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last in all.
const WHOLE: Duration = Duration::from_secs(10);
/// Longest head, in bytes; the least that hyper takes.
const LONGEST_HEAD: usize = 8192;

/// Answers the request that comes, whose path `answer` is given. Its body is not read.
pub(super) async fn converse(stream: TcpStream, answer: impl Fn(&str) -> Answer) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.uri().path());
        async move { Ok::<_, Infallible>(to_http(answer)) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        // A balancer that kept its connections would hold all the room that there is.
        .keep_alive(false)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(WHOLE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a health check's connection ended: {error}"),
        Err(_) => tracing::debug!("a health check's connection was cut: it took too long"),
    }
}

fn to_http(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(weight) = answer.weight {
        headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(weight));
    }
    response
}
