//! The places in which plugins run: so many together, so many per queue, and none left out.
//!
//! - A queue that runs nothing finds a place at once: the others leave one for each that is idle, up to half of all
//!   places. So a plugin whose deliveries are slow, however many wait, takes nothing from another.
//! - Beyond that a free place goes to the queue that runs least.
//! - A queue whose limit becomes 0 gives back what waits for a place.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Which queue's seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat(usize);

pub(super) struct Places {
    state: Arc<Mutex<State>>,
}

struct State {
    all: usize,
    free: usize,
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
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// A place that is taken for as long as this lives.
pub(super) struct Place {
    seat: Seat,
    state: Option<Arc<Mutex<State>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            let mut guard = lock(&state);
            guard.leave(self.seat);
            guard.grant(&state);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn leave(&mut self, Seat(seat): Seat) {
        self.free += 1;
        if let Some(row) = self.seats.get_mut(seat) {
            row.running = row.running.saturating_sub(1);
        }
    }

    /// Gives free places to those who wait.
    fn grant(&mut self, shared: &Arc<Mutex<Self>>) {
        while self.free > 0 {
            let idle = self.seats.iter().filter(|row| row.limit > 0 && row.running == 0).count();
            let next = self
                .seats
                .iter()
                .enumerate()
                .filter(|(_, row)| !row.waiting.is_empty() && row.running < row.limit)
                .min_by_key(|(_, row)| (row.running, row.served))
                .map(|(seat, row)| (seat, row.running));
            let Some((seat, running)) = next else { return };
            // The idle ones' places are theirs.
            if running > 0 && self.free <= idle.min(self.all / 2) {
                return;
            }
            let Some(row) = self.seats.get_mut(seat) else { return };
            let Some(waiter) = row.waiting.pop_front() else { return };
            let place = Place { seat: Seat(seat), state: Some(Arc::clone(shared)) };
            match waiter.send(place) {
                Ok(()) => {
                    self.free -= 1;
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
    pub(super) fn new(free: usize) -> Self {
        let all = free.max(1);
        Self { state: Arc::new(Mutex::new(State { all, free: all, closed: false, served: 0, seats: Vec::new() })) }
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

    /// A place, when there is one; `None` when the queue is held back or the host stops.
    pub(super) async fn take(&self, Seat(seat): Seat) -> Option<Place> {
        let granted = {
            let mut state = lock(&self.state);
            let closed = state.closed;
            let row = state.seats.get_mut(seat).filter(|row| row.limit > 0 && !closed)?;
            let (sender, granted) = oneshot::channel();
            row.waiting.push_back(sender);
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

    /// Starts `count` deliveries of a queue; returns the places they got at once.
    async fn start(places: &Places, seat: Seat, count: usize) -> Vec<Place> {
        let mut got = Vec::new();
        for _ in 0..count {
            tokio::select! {
                biased;
                place = places.take(seat) => got.extend(place),
                () = std::future::ready(()) => {}
            }
        }
        got
    }

    #[tokio::test]
    async fn a_queue_that_takes_all_it_can_leaves_every_other_its_place() {
        let places = Places::new(8);
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
        let places = Places::new(8);
        let seats: Vec<Seat> = (0..50).map(|_| places.seat()).collect();
        for seat in &seats {
            places.limit(*seat, 100);
        }
        assert_eq!(start(&places, seats[7], 50).await.len(), 4);
    }

    #[tokio::test]
    async fn a_free_place_goes_to_the_one_that_runs_least_and_nobody_is_over_its_limit() {
        let places = Arc::new(Places::new(4));
        let (one, two) = (places.seat(), places.seat());
        places.limit(one, 3);
        places.limit(two, 1);
        let mut first = start(&places, one, 9).await;
        assert_eq!(first.len(), 3);
        let second = start(&places, two, 9).await;
        assert_eq!(second.len(), 1);
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(two).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first.pop());
        assert!(!waiting.is_finished());
        drop(second);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn who_waits_is_sent_away_when_its_queue_is_held_back() {
        let places = Arc::new(Places::new(1));
        let seat = places.seat();
        assert!(places.take(seat).await.is_none(), "a queue starts held back");
        places.limit(seat, 2);
        let place = places.take(seat).await;
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(seat).await.is_none() }
        });
        tokio::task::yield_now().await;
        places.limit(seat, 0);
        assert!(waiting.await.unwrap());
        drop(place);
        places.limit(seat, 1);
        assert!(places.take(seat).await.is_some());
        places.close();
        assert!(places.take(seat).await.is_none());
    }
}
