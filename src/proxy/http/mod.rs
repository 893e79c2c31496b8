//! HTTP-aware carrying: each request of a connection goes to an instance of its own choice.
//!
//! ```text
//! application ─ HTTP/1.1, h2c ─> ingress ─┬─ local ──────────────────────────────> service of this host
//!                                         └─ channel ═ HTTP/2, mTLS, 7947 ═> egress ─ local ─> service of that host
//! ```
//!
//! `ingress` reads requests from applications, `forward` chooses and tries again, `channel` keeps the connections to other
//! hosts (shared by all services, many requests at once), `local` those to services of this host, `egress` serves other
//! hosts. `headers` is what is checked, removed and added; `body` what a body is on its way; `seen` what taps are shown. hyper does the framing on
//! every side: nothing that an application sent is passed on as bytes, so no two readers can disagree about where a
//! request ends.
//!
//! Nothing of a request is kept but its head and, until an instance has begun to answer, the first 64 KiB of its body.

mod access_log;
mod body;
mod channel;
mod egress;
mod forward;
mod headers;
mod ingress;
mod local;
mod plan;
mod reason;
mod seen;
#[cfg(test)]
mod tests;
mod upgrade;

use std::future::Future;
use std::time::Duration;

use hyper::{client, server};
use hyper_util::rt::TokioTimer;

pub(super) use access_log::AccessLogger;
pub(super) use channel::Channels;
pub(super) use egress::serve as serve_host;
pub(super) use ingress::{Target, serve as serve_application};
pub(super) use local::LocalPool;

/// Runs hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
struct OnWorker;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnWorker
where
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// A stream's share of what a connection between hosts may have under way in one direction.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Streams of one connection at once. Beyond it callers open another connection.
const STREAMS_MAX: u32 = 128;
/// All streams' windows together: readers that do not read cannot use up the connection's window and so stop the others.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX;
/// Four TLS records.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// A request's or response's head, in bytes; NGINX takes 32 KiB, HAProxy 16.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Lines of a head; hyper's own default is 100.
const HEADERS_MAX: usize = 128;
/// Between pings on a connection with requests under way.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 as Weft asks it of other hosts and of services.
fn http2_client() -> client::conn::http2::Builder<OnWorker> {
    let mut builder = client::conn::http2::Builder::new(OnWorker);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_max_send_streams(STREAMS_MAX as usize)
        .max_send_buf_size(STREAM_WINDOW_BYTES as usize);
    builder
}

/// HTTP/2 as Weft serves it to applications and other hosts.
fn http2_server(head_bytes_max: u32) -> server::conn::http2::Builder<OnWorker> {
    let mut builder = server::conn::http2::Builder::new(OnWorker);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(STREAM_WINDOW_BYTES as usize)
        .max_header_list_size(head_bytes_max);
    builder
}
