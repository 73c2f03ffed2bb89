//! What one account may hold of the intake: places for senders, and room for bodies.
//!
//! - Each account has a share of its own, so that silent bodies of one can't refuse another's events.
//! - Room is taken as bytes come: a body that is announced, or may come, holds nothing.
//! - What is not free is waited for, for a moment ([`MOMENT`]): the CRM's side keeps no event that was refused.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::problem::Problem;

/// Bytes of bodies that are counted at once, all accounts together; more only where an account's part of it is less than
/// `max_body`, because one of the largest must fit: then it is accounts × `max_body`. Of a packed body the larger form is
/// counted, and both are there while it is unpacked.
const MOST_HELD: usize = 64 << 20;
/// How long a sender waits for a place, or a body for room. The CRM gives up after five seconds.
const MOMENT: Duration = Duration::from_millis(500);
/// Senders that an account may have at once, however many accounts there are.
const LEAST_SENDERS: usize = 8;

/// All accounts' shares.
pub(super) struct Shares {
    /// The accounts of the start: one that is added waits for the next, and until then no token of it opens.
    by_account: BTreeMap<String, Share>,
    max_body: usize,
}

struct Share {
    senders: Semaphore,
    /// Kibibytes.
    room: Semaphore,
}

impl Shares {
    pub(super) fn new<'a>(accounts: impl Iterator<Item = &'a String>, max_senders: usize, max_body: usize) -> Self {
        let accounts: Vec<&String> = accounts.collect();
        let of = |all: usize| all.div_ceil(accounts.len().max(1));
        let share = || Share {
            senders: Semaphore::new(of(max_senders).max(LEAST_SENDERS.min(max_senders)).min(Semaphore::MAX_PERMITS)),
            // The largest body must fit, unpacked or not.
            room: Semaphore::new(of(MOST_HELD).max(max_body).div_ceil(1 << 10)),
        };
        let by_account = accounts.iter().map(|name| ((*name).clone(), share())).collect();
        Self { by_account, max_body }
    }

    /// A place for one sender of an account.
    pub(super) async fn sender(&self, account: &str) -> Result<Sender<'_>, Problem> {
        let share = self.by_account.get(account).ok_or(Problem::UnknownToken)?;
        let place = in_a_moment(&share.senders, 1).await?;
        Ok(Sender { _place: place, room: &share.room, held: None, max_body: self.max_body })
    }
}

async fn in_a_moment(semaphore: &Semaphore, permits: u32) -> Result<SemaphorePermit<'_>, Problem> {
    match tokio::time::timeout(MOMENT, semaphore.acquire_many(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        // It is never closed.
        _ => Err(Problem::Busy),
    }
}

/// A sender who is served, with what it holds until then.
pub(super) struct Sender<'a> {
    _place: SemaphorePermit<'a>,
    room: &'a Semaphore,
    held: Option<SemaphorePermit<'a>>,
    max_body: usize,
}

impl Sender<'_> {
    /// Takes room for so many bytes in all.
    pub(super) async fn holds(&mut self, bytes: usize) -> Result<(), Problem> {
        let held = self.held.as_ref().map_or(0, SemaphorePermit::num_permits);
        let more = bytes.div_ceil(1 << 10).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = in_a_moment(self.room, u32::try_from(more).unwrap_or(u32::MAX)).await?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }

    /// The whole body. Its time is the caller's to bound.
    pub(super) async fn body(&mut self, body: &mut Body) -> Result<Bytes, Problem> {
        let too_large = Problem::TooLarge(self.max_body);
        if body.size_hint().lower() > self.max_body as u64 {
            return Err(too_large);
        }
        let mut whole: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Problem::Incomplete)?.into_data() else { continue };
            let bytes = whole.len() + data.len();
            if bytes > self.max_body {
                return Err(too_large);
            }
            self.holds(bytes).await?;
            if whole.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(names: &[&str], max_senders: usize) -> Shares {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Shares::new(names.iter(), max_senders, 1 << 20)
    }

    #[tokio::test]
    async fn one_account_that_holds_all_it_may_refuses_no_other() {
        let shares = shares(&["a", "b"], 20);
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(shares.sender("a").await.unwrap());
        }
        assert!(matches!(shares.sender("a").await, Err(Problem::Busy)));
        let mut other = shares.sender("b").await.unwrap();
        // Half of the room is the account's.
        for sender in &mut held {
            sender.holds(3 << 20).await.unwrap();
        }
        let [first, second, ..] = &mut held[..] else { panic!() };
        first.holds(5 << 20).await.unwrap();
        assert_eq!(second.holds(4 << 20).await, Err(Problem::Busy));
        other.holds(32 << 20).await.unwrap();
        assert_eq!(other.holds((32 << 20) + 1).await, Err(Problem::Busy));
    }

    #[tokio::test]
    async fn a_place_that_is_free_in_a_moment_is_waited_for() {
        let shares = shares(&["a"], 1);
        let first = shares.sender("a").await.unwrap();
        let free = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(shares.sender("a"), free);
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn a_body_holds_what_came_of_it_and_no_more() {
        let shares = shares(&["a"], 9);
        let mut sender = shares.sender("a").await.unwrap();
        let pieces = [Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 3_000])), Ok(Bytes::from_static(b"y"))];
        let mut body = Body::from_stream(futures_util::stream::iter(pieces));
        assert_eq!(sender.body(&mut body).await.unwrap().len(), 3_001);
        assert_eq!(sender.held.as_ref().map(SemaphorePermit::num_permits), Some(3));
        let mut large = Body::from(vec![0; (1 << 20) + 1]);
        assert_eq!(sender.body(&mut large).await, Err(Problem::TooLarge(1 << 20)));
    }
}
