//! Whether a caller could read the data folder anyway: a program of this machine that belongs to the host's own user, or to root.
//!
//! - The system itself says whose a connection is: the owner of the other end of one that goes over the loopback.
//! - A proxy, or the CRM's PHP, speaks for people outside, and belongs to a user of its own: it is a stranger here. So is
//!   everything that a proxy sent on by its own account, and what a page of another origin asks for.
//! - What the system does not say is no.
//!
//! Not here: who may change something. That takes a token or a session, from whatever machine.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Version, header};

/// Bytes of the system's table that are looked at: some 40,000 connections.
const MOST_TABLE: u64 = 6 << 20;
/// The state of a connection that is there, in the system's table.
const ESTABLISHED: &str = "01";
/// What a proxy adds to a request that it sends on.
const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];

/// Whether whoever asks could read the data folder.
pub(super) fn reads_the_folder(parts: &Parts) -> bool {
    let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>().copied() else { return false };
    // The oldest form of the protocol is what a proxy speaks that was told nothing; no browser and no common tool does.
    if !peer.ip().to_canonical().is_loopback() || parts.version != Version::HTTP_11 || is_sent_on(&parts.headers) {
        return false;
    }
    let own = rustix::process::geteuid().as_raw();
    let owners: Vec<u32> =
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().flat_map(|file| owners(&table(file), peer)).collect();
    !owners.is_empty() && owners.iter().all(|owner| *owner == own || *owner == 0)
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

fn table(file: &str) -> String {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MOST_TABLE).read_to_string(&mut text));
    // A part of it could leave out somebody else's.
    if read.is_ok_and(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX) < MOST_TABLE) { text } else { String::new() }
}

/// To whom connections belong whose near end is `end`, by the system's table.
fn owners(table: &str, end: SocketAddr) -> Vec<u32> {
    let owner = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let near = address(columns.next()?)?;
        let (_far, state) = (columns.next()?, columns.next()?);
        let same = near.port() == end.port() && near.ip().to_canonical() == end.ip().to_canonical();
        (same && state == ESTABLISHED).then(|| columns.nth(3)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(owner).collect()
}

/// `0100007F:1F90`: the address in groups of four bytes, each in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let group = |at: usize| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(group(0)?)),
        32 => {
            let groups = [group(0)?, group(1)?, group(2)?, group(3)?];
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(groups.iter().flatten()).for_each(|(to, from)| *to = *from);
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(peer: SocketAddr, version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = axum::http::Request::get("/api/v1/events").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(ConnectInfo(peer));
        reads_the_folder(&parts)
    }

    #[test]
    fn a_program_of_the_same_user_reads_and_nobody_who_speaks_for_others() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, http) = (caller.local_addr().unwrap(), Version::HTTP_11);
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
        assert!(!asked("10.0.0.9:1".parse().unwrap(), http, &[host]));
        assert!(!asked("127.0.0.1:1".parse().unwrap(), http, &[host]), "nobody's connection");
        drop(caller);
    }

    #[test]
    fn a_connection_of_another_user_is_not_taken_for_ones_own() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2253 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n\
            1: 0100007F:D431 0100007F:2253 01 00000000:00000000 00:00000000 00000000    33        0 2 1\n\
            2: 0100007F:2253 0100007F:D431 01 00000000:00000000 00:00000000 00000000     7        0 3 1\n\
            3: 0100007F:D431 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4 1\n\
            4: 0000000000000000FFFF00000100007F:D432 0000000000000000FFFF00000100007F:2253 01 0:0 00:0 0 34 0 5 1\n\
            5: 00000000000000000000000001000000:D433 00000000000000000000000001000000:2253 01 0:0 00:0 0 35 0 6 1\n\
            6: 0100007F:D434 0100007F:2253 08 00000000:00000000 00:00000000 00000000     0        0 7 1\n\
            torn: 0100007F";
        let of = |end: &str| owners(table, end.parse().unwrap());
        assert_eq!(of("127.0.0.1:54321"), [33, 0], "one of two that are not told apart is a stranger's");
        assert_eq!(of("127.0.0.1:54322"), [34]);
        assert_eq!(of("[::1]:54323"), [35]);
        assert_eq!(of("127.0.0.1:54324"), [] as [u32; 0], "its other end is gone");
        assert_eq!(of("127.0.0.1:54325"), [] as [u32; 0]);
    }
}
