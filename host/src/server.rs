//! The listener: accepts connections, bounds them, and hands their requests to the routes.
//!
//! - A connection that does not send a whole request head in time is closed.
//! - Connections at once are bounded, in all and per address: a sender that opens many takes no other's place. What is
//!   over the bound is closed at once; the CRM's side keeps the event and comes again.
//! - On a stop, requests under way end, idle connections are closed.
//!
//! Not here: what a request means (`ingress`, `console`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::telemetry;

/// The pause after the system refused a connection: it is out of file handles, mostly.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a request's head may take to arrive.
    pub head_timeout: Duration,
    /// Connections at once.
    pub most_connections: usize,
    /// Connections at once from one address; loopback is not counted, because a proxy may stand there.
    pub most_per_address: usize,
}

/// Serves until `stop` turns true and every request under way has ended.
pub async fn serve(listener: Arc<TcpListener>, router: Router, options: Options, mut stop: watch::Receiver<bool>) {
    let open = Arc::new(Open { count: Mutex::default(), options: options.clone() });
    let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the sender is gone, which is a stop as well.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = Open::place(&open, peer.ip()) else {
                    telemetry::connection_refused();
                    continue;
                };
                let (router, stop, alive, timeout) =
                    (router.clone(), stop.clone(), alive.clone(), options.head_timeout);
                tokio::spawn(async move {
                    connection(stream, peer, router, timeout, stop).await;
                    drop((place, alive));
                });
            }
            Err(error) => {
                telemetry::host_fault("server", &error);
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop((listener, alive));
    // Ends when the last connection has let go of it.
    ended.recv().await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    head_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    // An answer is one small packet: it must not wait for another.
    drop(stream.set_nodelay(true));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    // Whoever breaks off has got no answer, and knows it.
    tokio::select! {
        ended = serving.as_mut() => return drop(ended),
        _ = stop.wait_for(|stop| *stop) => {}
    }
    serving.as_mut().graceful_shutdown();
    drop(serving.await);
}

struct Open {
    count: Mutex<Count>,
    options: Options,
}

#[derive(Default)]
struct Count {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place, for as long as it lives.
struct Place {
    open: Arc<Open>,
    address: IpAddr,
}

impl Open {
    fn place(open: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut count = open.count.lock().unwrap_or_else(PoisonError::into_inner);
        let own = count.by_address.get(&address).copied().unwrap_or_default();
        let too_many = own >= open.options.most_per_address && !address.is_loopback();
        if too_many || count.all >= open.options.most_connections {
            return None;
        }
        count.all += 1;
        count.by_address.insert(address, own + 1);
        Some(Place { open: Arc::clone(open), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut count = self.open.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.all = count.all.saturating_sub(1);
        match count.by_address.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                count.by_address.remove(&self.address);
            }
        }
    }
}
