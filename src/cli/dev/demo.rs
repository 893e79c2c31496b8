//! The demo service: HTTP that says which host answers.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::super::output::CliError;

/// Serves on a thread of its own until the process ends.
pub(super) fn start(address: SocketAddr, host: &str) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        CliError::failed(format!("the demo service cannot listen on {address}: {error}"), "free that port")
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let answer = Bytes::from(format!("hello from {host}\n"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let serve = move || runtime.block_on(serve(listener, answer));
    std::thread::Builder::new().name("demo".into()).spawn(serve).map(drop).map_err(failed)
}

async fn serve(listener: std::net::TcpListener, answer: Bytes) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        let service = service_fn(move |_: Request<hyper::body::Incoming>| {
            let answer = answer.clone();
            async move { Ok::<_, Infallible>(Response::new(Full::new(answer))) }
        });
        tokio::spawn(async move {
            // A caller that breaks off is no news.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
