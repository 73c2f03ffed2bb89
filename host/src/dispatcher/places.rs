//! The places in which plugins run: so many together, so many per queue, and none left out.
//!
//! - A queue that runs nothing finds a place at once: the others leave one for each that is idle, up to half of all
//!   places. So a plugin whose deliveries are slow, however many wait, takes nothing from another.
//! - Beyond that a free place goes to the queue that runs least.
//! - A place comes with the memory that its attempt may need at most (`memory`): one bound for all of them.
//! - A queue whose limit becomes 0 gives back what waits for a place.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::memory::Memory;

/// Which queue's seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat(usize);

pub(super) struct Places {
    state: Arc<Mutex<State>>,
}

struct State {
    all: usize,
    free: usize,
    memory: Memory,
    closed: bool,
    served: u64,
    seats: Vec<Row>,
}

#[derive(Default)]
struct Row {
    limit: usize,
    running: usize,
    /// When it was served last: of equals, the one that waited longest is next.
    served: u64,
    waiting: VecDeque<Waiter>,
}

/// Who waits, and for how much memory.
struct Waiter {
    bytes: u64,
    place: oneshot::Sender<Place>,
}

impl Row {
    /// What its next one needs, where it may have a place at all.
    fn next(&self) -> Option<u64> {
        self.waiting.front().filter(|_| self.running < self.limit).map(|waiter| waiter.bytes)
    }
}

/// What stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Standing {
    /// Places in which plugins run.
    pub places: usize,
    /// Those that are taken.
    pub taken: usize,
    /// Deliveries that were claimed and wait for a place or for memory.
    pub waiting: usize,
    /// Bytes of memory for all plugins together.
    pub memory: u64,
    /// Bytes that those which run may need at most.
    pub memory_taken: u64,
}

/// A place that is taken for as long as this lives.
pub(super) struct Place {
    /// None: only the memory is left.
    seat: Option<Seat>,
    bytes: u64,
    state: Option<Arc<Mutex<State>>>,
}

impl Place {
    /// Leaves the place to others, and keeps of its memory so much at most.
    pub(super) fn left_with(mut self, bytes: u64) -> Self {
        if let Some(state) = &self.state {
            let mut guard = lock(state);
            guard.leave(self.seat.take(), self.bytes);
            self.bytes = self.bytes.min(bytes);
            guard.memory.take(self.bytes);
            guard.grant(state);
        }
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            let mut guard = lock(&state);
            guard.leave(self.seat, self.bytes);
            guard.grant(&state);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn leave(&mut self, seat: Option<Seat>, bytes: u64) {
        self.memory.give_back(bytes);
        let Some(Seat(seat)) = seat else { return };
        self.free += 1;
        if let Some(row) = self.seats.get_mut(seat) {
            row.running = row.running.saturating_sub(1);
        }
    }

    /// Whose turn it is, of those for whom there is memory; and how many it runs.
    fn next(&self) -> Option<(usize, usize)> {
        let turn = |(_, row, _): &(usize, &Row, u64)| (row.running, row.served);
        let waiting = || self.seats.iter().enumerate().filter_map(|(seat, row)| Some((seat, row, row.next()?)));
        // Of the large ones only the first is looked at: a smaller one behind it must not take what it waits for.
        let is_large = |bytes: u64| !self.memory.is_common(bytes);
        let first = waiting().filter(|(_, _, bytes)| is_large(*bytes)).min_by_key(turn);
        let kept = first.and_then(|(_, _, bytes)| self.memory.kept_for(bytes)).unwrap_or(0);
        let first = first.map(|(seat, _, _)| seat);
        waiting()
            .filter(|(seat, _, bytes)| !is_large(*bytes) || first == Some(*seat))
            .filter(|(_, _, bytes)| self.memory.fits(*bytes, kept))
            .min_by_key(turn)
            .map(|(seat, row, _)| (seat, row.running))
    }

    /// Gives free places to those who wait.
    fn grant(&mut self, shared: &Arc<Mutex<Self>>) {
        while self.free > 0 {
            let idle = self.seats.iter().filter(|row| row.limit > 0 && row.running == 0).count();
            let Some((seat, running)) = self.next() else { return };
            // The idle ones' places are theirs.
            if running > 0 && self.free <= idle.min(self.all / 2) {
                return;
            }
            let Some(row) = self.seats.get_mut(seat) else { return };
            let Some(waiter) = row.waiting.pop_front() else { return };
            let place = Place { seat: Some(Seat(seat)), bytes: waiter.bytes, state: Some(Arc::clone(shared)) };
            match waiter.place.send(place) {
                Ok(()) => {
                    self.free -= 1;
                    self.memory.take(waiter.bytes);
                    self.served += 1;
                    row.running += 1;
                    row.served = self.served;
                }
                // It waits no longer; its place was never taken.
                Err(mut place) => place.state = None,
            }
        }
    }
}

impl Places {
    pub(super) fn new(free: usize, memory: u64) -> Self {
        let (all, memory) = (free.max(1), Memory::new(memory));
        let state = State { all, free: all, memory, closed: false, served: 0, seats: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// What stands at the moment.
    pub(super) fn standing(&self) -> Standing {
        let state = lock(&self.state);
        let (memory, memory_taken) = state.memory.standing();
        let waiting = state.seats.iter().map(|row| row.waiting.len()).sum();
        Standing { places: state.all, taken: state.all - state.free, waiting, memory, memory_taken }
    }

    /// A seat for one more queue.
    pub(super) fn seat(&self) -> Seat {
        let mut state = lock(&self.state);
        state.seats.push(Row::default());
        Seat(state.seats.len() - 1)
    }

    /// How many places a queue may take; 0 sends those who wait away.
    pub(super) fn limit(&self, Seat(seat): Seat, limit: usize) {
        let mut state = lock(&self.state);
        let Some(row) = state.seats.get_mut(seat) else { return };
        if row.limit == limit {
            return;
        }
        row.limit = limit;
        if limit == 0 {
            row.waiting.clear();
        }
        state.grant(&self.state);
    }

    /// A place with so many bytes of memory, when there is one; `None` when the queue is held back or the host stops.
    pub(super) async fn take(&self, Seat(seat): Seat, bytes: u64) -> Option<Place> {
        let granted = {
            let mut state = lock(&self.state);
            let (closed, bytes) = (state.closed, state.memory.at_most(bytes));
            let row = state.seats.get_mut(seat).filter(|row| row.limit > 0 && !closed)?;
            let (place, granted) = oneshot::channel();
            row.waiting.push_back(Waiter { bytes, place });
            state.grant(&self.state);
            granted
        };
        granted.await.ok()
    }

    /// Nobody gets a place any more.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        for row in &mut state.seats {
            row.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: u64 = 1 << 20;
    const LARGE: u64 = 400 << 20;

    /// Starts `count` deliveries of a queue; returns the places they got at once.
    async fn start(places: &Places, seat: Seat, count: usize) -> Vec<Place> {
        start_with(places, seat, count, SMALL).await
    }

    async fn start_with(places: &Places, seat: Seat, count: usize, bytes: u64) -> Vec<Place> {
        let mut got = Vec::new();
        for _ in 0..count {
            tokio::select! {
                biased;
                place = places.take(seat, bytes) => got.extend(place),
                () = std::future::ready(()) => {}
            }
        }
        got
    }

    #[tokio::test]
    async fn a_queue_that_takes_all_it_can_leaves_every_other_its_place() {
        let places = Places::new(8, u64::MAX / 4);
        let seats: Vec<Seat> = (0..4).map(|_| places.seat()).collect();
        for seat in &seats {
            places.limit(*seat, 100);
        }
        let greedy = start(&places, seats[0], 50).await;
        assert_eq!(greedy.len(), 5, "three of eight are kept for three others");
        for seat in &seats[1..] {
            assert_eq!(start(&places, *seat, 1).await.len(), 1);
        }
    }

    #[tokio::test]
    async fn many_idle_queues_do_not_keep_a_busy_one_from_half_of_the_places() {
        let places = Places::new(8, u64::MAX / 4);
        let seats: Vec<Seat> = (0..50).map(|_| places.seat()).collect();
        for seat in &seats {
            places.limit(*seat, 100);
        }
        assert_eq!(start(&places, seats[7], 50).await.len(), 4);
    }

    #[tokio::test]
    async fn all_together_hold_no_more_than_the_bound_and_large_ones_leave_a_part_of_it() {
        let places = Places::new(1_000, 1_000 << 20);
        let (one, two, small) = (places.seat(), places.seat(), places.seat());
        for seat in [one, two, small] {
            places.limit(seat, 1_000);
        }
        let first = start_with(&places, one, 3, LARGE).await;
        assert_eq!(first.len(), 1, "two would be more than three quarters");
        let others = start_with(&places, small, 100, 60 << 20).await;
        assert_eq!(others.len(), 10, "600 of 1,000 MiB are left");
        let standing = places.standing();
        assert!(standing.memory_taken <= standing.memory, "{standing:?}");
        assert!(start_with(&places, two, 1, LARGE).await.is_empty());
    }

    #[tokio::test]
    async fn many_small_ones_do_not_keep_a_large_one_out_nor_it_them() {
        let places = Arc::new(Places::new(1_000, 1_000 << 20));
        let (small, large) = (places.seat(), places.seat());
        places.limit(small, 1_000);
        places.limit(large, 1_000);
        let mut running: VecDeque<Place> = start_with(&places, small, 16, 60 << 20).await.into();
        assert_eq!(running.len(), 16);
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(large, LARGE).await }
        });
        tokio::task::yield_now().await;
        // Each that ends is followed by another that wants its place, without end.
        let mut rounds = 0;
        while !waiting.is_finished() {
            rounds += 1;
            assert!(rounds < 100, "the large one never gets its turn");
            running.pop_front();
            running.extend(start_with(&places, small, 1, 60 << 20).await);
            assert!(!running.is_empty());
            tokio::task::yield_now().await;
        }
        assert_eq!(running.len(), 10, "600 MiB beside the large one, which had its 400 kept for it");
        drop(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn what_has_yet_to_be_stored_holds_memory_and_no_place() {
        let places = Places::new(2, 1_000 << 20);
        let seat = places.seat();
        places.limit(seat, 2);
        let mut ended: Vec<Place> = Vec::new();
        // A store that refuses: each attempt ends, and what it leaves behind waits.
        loop {
            let place = places.take(seat, 60 << 20);
            let Ok(place) = tokio::time::timeout(std::time::Duration::from_millis(20), place).await else { break };
            ended.push(place.unwrap().left_with(90 << 20));
            assert!(ended.len() < 100, "they are outside of any bound");
        }
        let standing = places.standing();
        assert_eq!((ended.len(), standing.taken, standing.memory_taken), (16, 0, 960 << 20), "{standing:?}");
        drop(ended.pop());
        assert!(places.take(seat, 60 << 20).await.is_some());
        drop(ended);
        assert_eq!(places.standing().memory_taken, 0);
    }

    #[tokio::test]
    async fn an_attempt_that_needs_more_than_all_may_have_waits_for_what_there_is() {
        let places = Places::new(2, 1_000 << 20);
        let seat = places.seat();
        places.limit(seat, 2);
        let place = places.take(seat, 3 << 30).await.unwrap();
        assert!(places.standing().memory_taken <= 1_000 << 20);
        drop(place);
    }

    #[tokio::test]
    async fn a_free_place_goes_to_the_one_that_runs_least_and_nobody_is_over_its_limit() {
        let places = Arc::new(Places::new(4, u64::MAX / 4));
        let (one, two) = (places.seat(), places.seat());
        places.limit(one, 3);
        places.limit(two, 1);
        let mut first = start(&places, one, 9).await;
        assert_eq!(first.len(), 3);
        let second = start(&places, two, 9).await;
        assert_eq!(second.len(), 1);
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(two, SMALL).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first.pop());
        assert!(!waiting.is_finished());
        drop(second);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn who_waits_is_sent_away_when_its_queue_is_held_back() {
        let places = Arc::new(Places::new(1, u64::MAX / 4));
        let seat = places.seat();
        assert!(places.take(seat, SMALL).await.is_none(), "a queue starts held back");
        places.limit(seat, 2);
        let place = places.take(seat, SMALL).await;
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(seat, SMALL).await.is_none() }
        });
        tokio::task::yield_now().await;
        places.limit(seat, 0);
        assert!(waiting.await.unwrap());
        drop(place);
        places.limit(seat, 1);
        assert!(places.take(seat, SMALL).await.is_some());
        places.close();
        assert!(places.take(seat, SMALL).await.is_none());
    }
}
