//! The listener: accepts connections, bounds them, and hands their requests to the routes.
//!
//! - A connection has a time for each head, which it also has between two requests, and one for each answer (`timed`):
//!   whoever sends nothing, or reads nothing, is closed.
//! - Connections at once are bounded, in all and per sender. When all places are taken, the oldest connection that has
//!   brought nothing yet is closed for the new one (`table`): strangers can't keep out those who are known.
//! - A connection whose first request was not let in is closed with its answer: whoever asks without end has to come anew.
//! - What one connection may make the host hold before it is known is bounded ([`MOST_BUFFERED`]).
//! - On a stop, requests under way end, idle connections are closed.
//!
//! Not here: what a request means, and the time for its body (`ingress`, `console`).

mod table;
mod timed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, header};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::telemetry;
pub use table::Caller;
use table::{Found, Table};
use timed::Timed;

/// The pause after the system refused a connection: it is out of file handles, mostly.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How long a new connection makes room for no other: what a sender sends at once has come by then, and is read.
const MOMENT: Duration = Duration::from_millis(250);
/// Bytes that a connection holds before they are read or sent. The longest address that HTTP's library takes has 64 KiB.
const MOST_BUFFERED: usize = 72 << 10;
/// Connections that the system may keep until they are accepted. With few a flood costs others the second after which TCP
/// tries again; with very many they wait as long behind the flood.
const WAITING: i32 = 1_024;

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a request's head may take to arrive.
    pub head_timeout: Duration,
    /// How long the reader of an answer may read nothing.
    pub answer_timeout: Duration,
    /// Connections at once.
    pub most_connections: usize,
    /// Connections at once from one sender; loopback is not counted, because a proxy may stand there.
    pub most_per_address: usize,
}

/// This host's end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Here(pub SocketAddr);

/// Serves until `stop` turns true and every request under way has ended. `routes` is asked for each request.
pub async fn serve<R>(listener: Arc<TcpListener>, routes: R, options: Options, mut stop: watch::Receiver<bool>)
where
    R: Fn() -> Router + Clone + Send + Sync + 'static,
{
    // Where this fails the system's own number holds.
    drop(socket2::SockRef::from(&*listener).listen(WAITING));
    let table = Arc::new(Table::new(options.most_connections, options.most_per_address, MOMENT));
    let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    'accepting: loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the sender is gone, which is a stop as well.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = loop {
                    match Table::place(&table, peer.ip()) {
                        Found::Place(place) => break place,
                        Found::Later(time) => tokio::time::sleep(time).await,
                        Found::Nothing => {
                            telemetry::connection_refused();
                            continue 'accepting;
                        }
                    }
                };
                let caller = place.caller();
                let serving = connection(stream, peer, caller.clone(), routes.clone(), options.clone(), stop.clone());
                let alive = alive.clone();
                let task = tokio::spawn(async move {
                    serving.await;
                    drop((place, alive));
                });
                caller.runs_as(task.abort_handle());
            }
            Err(error) => {
                telemetry::not_accepted(&error);
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop((listener, alive));
    // Ends when the last connection has let go of it.
    ended.recv().await;
}

async fn connection<R>(
    stream: TcpStream,
    peer: SocketAddr,
    caller: Caller,
    routes: R,
    options: Options,
    mut stop: watch::Receiver<bool>,
) where
    R: Fn() -> Router + Send + Sync + 'static,
{
    // An answer is one small packet: it must not wait for another.
    drop(stream.set_nodelay(true));
    let here = stream.local_addr().ok().map(Here);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        caller.asks();
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(caller.clone());
        here.map(|here| request.extensions_mut().insert(here));
        let (caller, answer) = (caller.clone(), routes().oneshot(request));
        async move {
            let mut answer = answer.await;
            if let Ok(answer) = &mut answer
                && caller.is_strangers()
            {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // Between two requests too.
        .header_read_timeout(options.head_timeout)
        .max_buf_size(MOST_BUFFERED)
        // A clock before 1970 has no date in HTTP, and the library panics.
        .auto_date_header(std::time::SystemTime::now() >= std::time::UNIX_EPOCH)
        .serve_connection(TokioIo::new(Timed::new(stream, options.answer_timeout)), service);
    let mut serving = std::pin::pin!(serving);
    // Whoever breaks off has got no answer, and knows it.
    tokio::select! {
        ended = serving.as_mut() => return drop(ended),
        _ = stop.wait_for(|stop| *stop) => {}
    }
    serving.as_mut().graceful_shutdown();
    drop(serving.await);
}
