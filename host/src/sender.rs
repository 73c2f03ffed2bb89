//! Where a request comes from: the peer, or who a trusted proxy says it was.
//!
//! - The intake (`allow`) and the console (wrong passwords) ask here, so both mean the same sender.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The header in which proxies name senders.
pub const HEADER: &str = "x-forwarded-for";

/// The last address that is no trusted proxy; nothing where a trusted proxy names what is no address.
/// `lines`: those of the header `X-Forwarded-For`, in order.
pub fn sender<'a>(peer: IpAddr, lines: impl DoubleEndedIterator<Item = &'a [u8]>, proxies: &[IpNet]) -> Option<IpAddr> {
    let mut sender = peer.to_canonical();
    // Lines of one name are one list.
    for line in lines.rev() {
        let hops = String::from_utf8_lossy(line);
        for hop in hops.rsplit(',').map(str::trim).filter(|hop| !hop.is_empty()) {
            if !proxies.iter().any(|net| net.contains(&sender)) {
                return Some(sender);
            }
            sender = address(hop)?.to_canonical();
        }
    }
    Some(sender)
}

/// Whom an address stands for where something is counted by sender: of IPv6 everybody has a network of 64 bits to choose
/// addresses from.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

/// An address as proxies write it: bare, with a port, in brackets, in quotes, with a zone.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim_matches('"').trim();
    let bare = |text: &str| text.split('%').next().and_then(|text| text.parse::<IpAddr>().ok());
    match hop.strip_prefix('[') {
        Some(rest) => {
            let (inner, behind) = rest.split_once(']')?;
            let port = behind.is_empty() || behind.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
            bare(inner).filter(|address| port && address.is_ipv6())
        }
        None => bare(hop).or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_understood_however_a_proxy_writes_it() {
        for (written, meant) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:5678", Some("1.2.3.4")),
            ("::1", Some("::1")),
            ("[::1]", Some("::1")),
            ("[::1]:1234", Some("::1")),
            ("\"[2001:db8::1]:80\"", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("2001:db8::1:80", Some("2001:db8::1:80")),
            ("unknown", None),
            ("_hidden", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[1.2.3.4]:80", None),
            ("1.2.3.4:99999", None),
            ("1.2.3", None),
        ] {
            assert_eq!(address(written), meant.map(|text| text.parse().unwrap()), "{written}");
        }
    }

    #[test]
    fn one_line_of_ipv6_is_one_sender() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!((of("10.1.2.3").as_str(), of("::ffff:10.1.2.3").as_str()), ("10.1.2.3", "10.1.2.3"));
    }

    #[test]
    fn only_what_a_trusted_proxy_says_counts() {
        let of = |lines: &[&'static str], peer: &str| {
            let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
            sender(peer.parse().unwrap(), lines.iter().map(|line| line.as_bytes()), &proxies)
                .map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&["9.9.9.9"], "1.1.1.1"), some("1.1.1.1"));
        assert_eq!(of(&["9.9.9.9, 8.8.8.8:4000"], "10.0.0.1"), some("8.8.8.8"));
        assert_eq!(of(&["9.9.9.9", "8.8.8.8,10.0.0.2"], "::ffff:10.0.0.1"), some("8.8.8.8"));
        assert_eq!(of(&["[::ffff:10.0.0.3]:1, 10.0.0.2"], "10.0.0.1"), some("10.0.0.3"));
        // A line that can't be read must not make an earlier, forged one count.
        assert_eq!(of(&["9.9.9.9", "\u{439}"], "10.0.0.1"), None);
        assert_eq!(of(&["unknown"], "10.0.0.1"), None);
    }
}
