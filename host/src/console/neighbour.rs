//! Whether a caller could read the data folder anyway: a program of this machine that belongs to the host's own user.
//!
//! - The system itself says whose a connection is: the owner of the other end of one that goes over the loopback.
//! - A proxy, a tunnel, or the CRM's PHP speaks for people outside, and belongs to another user: it is a stranger here, root
//!   too. So is everything that a proxy sent on by its own account, and what a page of another origin asks for.
//! - What the system does not say, or says of two, is no.
//!
//! Not here: who may change something. That takes a token or a session, from whatever machine.

use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Version, header};
use socket2::{Domain, Protocol, Socket, Type};

use crate::server::Here;

/// What a proxy adds to a request that it sends on.
const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];
/// Numbers of Linux: the family and protocol of questions to the system, the question about one socket, its answer's state of
/// a connection that is there, the families of addresses, TCP.
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const ESTABLISHED: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// How long the system's answer is waited for; it comes at once.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether whoever asks could read the data folder.
pub(super) fn reads_the_folder(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    let (Some(peer), Some(Here(here))) = (peer, parts.extensions.get::<Here>()) else { return false };
    // The oldest form of the protocol is what a proxy speaks that was told nothing; no browser and no common tool does.
    peer.ip().to_canonical().is_loopback()
        && parts.version == Version::HTTP_11
        && !is_sent_on(&parts.headers)
        && owner(peer, *here).is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
}

/// To whom the other end of a connection belongs: the socket at `there` that is connected to `here`, and no other.
///
/// # Errors
/// When the system does not say, or has no such connection.
fn owner(there: SocketAddr, here: SocketAddr) -> Result<u32, Error> {
    let mut system = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    system.set_read_timeout(Some(PATIENCE))?;
    system.write_all(&question(there, here))?;
    let mut answer = [0; 512];
    let length = system.read(&mut answer)?;
    said(answer.get(..length).unwrap_or_default()).ok_or_else(|| Error::from(ErrorKind::NotFound))
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(there: SocketAddr, here: SocketAddr) -> Vec<u8> {
    let (there_ip, here_ip) = (there.ip().to_canonical(), here.ip().to_canonical());
    let family = if there_ip.is_ipv4() { AF_INET } else { AF_INET6 };
    let address = |ip: IpAddr| -> [u8; 16] {
        match ip {
            IpAddr::V4(ip) => {
                let [first, second, third, fourth] = ip.octets();
                [first, second, third, fourth, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
            IpAddr::V6(ip) => ip.octets(),
        }
    };
    let mut body = vec![family, TCP, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(there.port().to_be_bytes());
    body.extend(here.port().to_be_bytes());
    body.extend(address(there_ip));
    body.extend(address(here_ip));
    // Any interface; whichever socket it is.
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The owner in `struct inet_diag_msg`; none where it is of another kind, or of a socket that only listens.
fn said(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let state = *answer.get(17)?;
    let owner = u32::from_ne_bytes(answer.get(80..84)?.try_into().ok()?);
    (kind == SOCK_DIAG_BY_FAMILY && state == ESTABLISHED).then_some(owner)
}

/// Whether a request was sent on by somebody, or asked for by a page of another origin, under whatever name it knows this host.
fn is_sent_on(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let other_page = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let host = text(header::HOST.as_str()).unwrap_or_default();
    other_page || !is_loopback_name(host) || FORWARDED.iter().any(|name| headers.contains_key(*name))
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked((peer, here): (SocketAddr, SocketAddr), version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = axum::http::Request::get("/api/v1/events").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(ConnectInfo(peer));
        parts.extensions.insert(Here(here));
        reads_the_folder(&parts)
    }

    #[test]
    fn a_program_of_the_same_user_reads_and_nobody_who_speaks_for_others() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let here = listener.local_addr().unwrap();
        let (peer, http) = ((caller.local_addr().unwrap(), here), Version::HTTP_11);
        let host = ("host", "127.0.0.1:8787");
        assert!(asked(peer, http, &[host]));
        assert!(asked(peer, http, &[("host", "[::1]:8787"), ("sec-fetch-site", "none")]));
        assert!(!asked(peer, Version::HTTP_10, &[host]), "a proxy that was told nothing");
        assert!(!asked(peer, http, &[("host", "crm.example.com")]));
        assert!(!asked(peer, http, &[("host", "localhost.example.com")]));
        assert!(!asked(peer, http, &[]));
        assert!(!asked(peer, http, &[host, ("sec-fetch-site", "cross-site")]));
        for forwarded in FORWARDED {
            assert!(!asked(peer, http, &[host, (forwarded, "127.0.0.1")]), "{forwarded}");
        }
        assert!(!asked(("10.0.0.9:1".parse().unwrap(), here), http, &[host]));
        assert!(!asked(("127.0.0.1:1".parse().unwrap(), here), http, &[host]), "nobody's connection");
        drop(caller);
    }

    #[test]
    fn the_owner_is_that_of_this_very_connection_and_of_no_other_socket_with_its_number() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let here = listener.local_addr().unwrap();
            let caller = std::net::TcpStream::connect(here).unwrap();
            let there = caller.local_addr().unwrap();
            assert_eq!(owner(there, here).unwrap(), rustix::process::geteuid().as_raw(), "{address}");
            assert!(owner(here, here).is_err(), "it listens");
            assert!(owner(there, SocketAddr::new(here.ip(), 1)).is_err(), "connected to another");
            let mapped = |address: SocketAddr| match address.ip() {
                IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
                IpAddr::V6(_) => address,
            };
            assert!(owner(mapped(there), mapped(here)).is_ok());
            drop(caller);
            assert!(owner(there, here).is_err(), "gone");
        }
    }

    #[test]
    fn an_answer_of_another_kind_or_cut_off_names_nobody() {
        let mut answer = vec![0; 100];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[17] = ESTABLISHED;
        answer[80..84].copy_from_slice(&33_u32.to_ne_bytes());
        assert_eq!(said(&answer), Some(33));
        assert_eq!(said(&answer[..83]), None);
        answer[17] = 10;
        assert_eq!(said(&answer), None, "it listens");
        (answer[17], answer[4]) = (ESTABLISHED, 2);
        assert_eq!(said(&answer), None, "an error");
    }
}
