//! The places for connections, and who makes room when all are taken.
//!
//! - A connection is a stranger's until a request on it was let in ([`Caller::known`]).
//! - When all places are taken, the oldest stranger's connection is closed for the new one, whatever it does; where there is
//!   none, the known one that was used longest ago. One that asks for somebody known is not closed before its answer begins;
//!   while the rest of the answer goes out (a stream of news, too) it counts as idle, and makes room in its turn.
//! - A new connection is left alone for a moment, in which what came with it is read: an idle one makes room in its place, and
//!   where there is none others wait to be accepted meanwhile.
//! - IPv6 senders are counted by their network of 64 bits: one customer has all its addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use crate::sender::network;
use crate::telemetry;

pub(super) struct Table {
    most: usize,
    most_per_sender: usize,
    /// How long a new connection makes room for no other.
    moment: Duration,
    places: Mutex<Places>,
}

/// Whether there is a place.
pub(super) enum Found {
    /// This one.
    Place(Place),
    /// None before this time is over.
    Later(Duration),
    /// None.
    Nothing,
}

#[derive(Default)]
struct Places {
    open: HashMap<u64, Connection>,
    by_sender: HashMap<IpAddr, usize>,
    /// The numbers of strangers' connections: the smallest is the oldest.
    strangers: BTreeSet<u64>,
    /// Known connections that wait for a request, or whose answer goes out, by when they were used.
    idle: BTreeMap<u64, u64>,
    /// Counts connections and uses.
    count: u64,
}

struct Connection {
    sender: IpAddr,
    since: Instant,
    /// How it is closed.
    task: Option<AbortHandle>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Stranger,
    Serving,
    /// Since this use.
    Idle(u64),
}

impl Table {
    pub(super) fn new(most: usize, most_per_sender: usize, moment: Duration) -> Self {
        Self { most, most_per_sender, moment, places: Mutex::default() }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; none where its sender has too many, or all others serve somebody known.
    pub(super) fn place(table: &Arc<Self>, address: IpAddr) -> Found {
        let sender = network(address);
        let mut places = table.places();
        let own = places.by_sender.get(&sender).copied().unwrap_or_default();
        if own >= table.most_per_sender && !sender.is_loopback() {
            return Found::Nothing;
        }
        if places.open.len() >= table.most {
            let oldest = places.oldest_stranger();
            let young = oldest.map(|(_, age)| table.moment.saturating_sub(age)).filter(|time| !time.is_zero());
            let idle = places.idle.values().next().copied();
            match (oldest, young, idle) {
                (Some((stranger, _)), None, _) => places.close(stranger),
                (_, _, Some(idle)) => places.close(idle),
                (_, Some(time), None) => return Found::Later(time),
                (None, None, None) => return Found::Nothing,
            }
        }
        let number = places.next();
        *places.by_sender.entry(sender).or_default() += 1;
        places.strangers.insert(number);
        places.open.insert(number, Connection { sender, since: Instant::now(), task: None, state: State::Stranger });
        Found::Place(Place(Caller { table: Arc::clone(table), number }))
    }
}

impl Places {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// The stranger's connection that has been there longest, and for how long.
    fn oldest_stranger(&self) -> Option<(u64, Duration)> {
        let number = self.strangers.first().copied()?;
        Some((number, self.open.get(&number)?.since.elapsed()))
    }

    fn close(&mut self, number: u64) {
        if let Some(task) = self.remove(number).and_then(|connection| connection.task) {
            task.abort();
        }
        telemetry::connection_made_room();
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.open.remove(&number)?;
        self.strangers.remove(&number);
        if let State::Idle(since) = connection.state {
            self.idle.remove(&since);
        }
        match self.by_sender.get_mut(&connection.sender) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                self.by_sender.remove(&connection.sender);
            }
        }
        Some(connection)
    }

    fn turn(&mut self, number: u64, serves: bool) {
        let count = self.next();
        let Some(connection) = self.open.get_mut(&number) else { return };
        self.strangers.remove(&number);
        if let State::Idle(since) = connection.state {
            self.idle.remove(&since);
        }
        connection.state = if serves { State::Serving } else { State::Idle(count) };
        if !serves {
            self.idle.insert(count, number);
        }
    }
}

/// A connection's place, for as long as it lives.
pub(super) struct Place(Caller);

impl Place {
    pub(super) fn caller(&self) -> Caller {
        self.0.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.table.places().remove(self.0.number);
    }
}

/// The connection that a request came by, for whoever learns who its sender is.
#[derive(Clone)]
pub struct Caller {
    table: Arc<Table>,
    number: u64,
}

impl Caller {
    /// The sender is known: until this is dropped the connection makes room for no other.
    #[must_use]
    pub fn known(&self) -> Served {
        self.table.places().turn(self.number, true);
        Served(self.clone())
    }

    /// A request came; a known connection counts as used.
    pub(super) fn asks(&self) {
        let mut places = self.table.places();
        if places.open.get(&self.number).is_some_and(|connection| matches!(connection.state, State::Idle(_))) {
            places.turn(self.number, false);
        }
    }

    /// Whether nothing that came by it was let in.
    pub(super) fn is_strangers(&self) -> bool {
        let stays = |connection: &Connection| matches!(connection.state, State::Stranger);
        self.table.places().open.get(&self.number).is_some_and(stays)
    }

    pub(super) fn runs_as(&self, task: AbortHandle) {
        if let Some(connection) = self.table.places().open.get_mut(&self.number) {
            connection.task = Some(task);
        }
    }
}

/// A request of somebody known, until its answer begins.
pub struct Served(Caller);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.table.places().turn(self.0.number, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn found(found: Found) -> Option<Place> {
        if let Found::Place(place) = found { Some(place) } else { None }
    }

    #[test]
    fn what_came_with_a_connection_is_read_before_it_makes_room() {
        let table = Arc::new(Table::new(1, 1, Duration::from_secs(60)));
        let first = found(Table::place(&table, from(1))).unwrap();
        assert!(matches!(Table::place(&table, from(2)), Found::Later(_)));
        let served = first.caller().known();
        assert!(matches!(Table::place(&table, from(2)), Found::Nothing));
        drop((served, first));
        assert!(found(Table::place(&table, from(2))).is_some());
    }

    #[test]
    fn an_idle_connection_makes_room_where_the_only_stranger_has_just_come() {
        let table = Arc::new(Table::new(3, 3, Duration::from_secs(60)));
        let place = |last| found(Table::place(&table, from(last)));
        let (idle, busy, young) = (place(1).unwrap(), place(2).unwrap(), place(3).unwrap());
        drop(idle.caller().known());
        let _served = busy.caller().known();
        let new = place(4).unwrap();
        let is_open = |place: &Place| table.places().open.contains_key(&place.0.number);
        assert!(!is_open(&idle) && is_open(&busy) && is_open(&young) && is_open(&new));
        assert!(matches!(Table::place(&table, from(5)), Found::Later(_)), "nobody else is idle");
    }

    #[test]
    fn a_full_table_closes_strangers_first_then_the_idle_and_never_whoever_is_served() {
        let table = Arc::new(Table::new(3, 3, Duration::ZERO));
        let place = |last| found(Table::place(&table, from(last)));
        let (first, second, third) = (place(1).unwrap(), place(2).unwrap(), place(3).unwrap());
        let is_open = |place: &Place| table.places().open.contains_key(&place.0.number);
        let served = first.caller().known();
        drop(third.caller().known());
        let fourth = place(4).unwrap();
        assert!(is_open(&first) && !is_open(&second) && is_open(&third), "the stranger made room");
        let fourth_served = fourth.caller().known();
        let fifth = place(5).unwrap();
        assert!(!is_open(&third) && is_open(&fifth), "no stranger was there: the idle one made room");
        let _fifth_served = fifth.caller().known();
        assert!(place(6).is_none(), "all serve somebody");
        drop(served);
        assert!(place(6).is_some() && !is_open(&first));
        drop((first, second, third, fourth_served, fourth, fifth));
        let places = table.places();
        assert!(places.open.is_empty() && places.strangers.is_empty() && places.idle.is_empty());
        assert!(places.by_sender.is_empty(), "closing twice counts once");
    }

    #[test]
    fn senders_are_counted_by_network_and_loopback_is_not() {
        let table = Arc::new(Table::new(100, 2, Duration::ZERO));
        let place = |address: &str| found(Table::place(&table, address.parse().unwrap()));
        let _held = [place("2001:db8::1").unwrap(), place("2001:db8::ffff:1").unwrap()];
        assert!(place("2001:db8::2").is_none() && place("2001:db8:0:1::2").is_some());
        let _mapped = [place("::ffff:192.0.2.1").unwrap(), place("192.0.2.1").unwrap()];
        assert!(place("192.0.2.1").is_none());
        let local =
            [place("::1"), place("::1"), place("::1"), place("127.0.0.1"), place("127.0.0.1"), place("127.0.0.1")];
        assert!(local.iter().all(Option::is_some));
    }
}
