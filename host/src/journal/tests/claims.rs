//! What comes with a claim: the fields of small events, as long as there is room for them.

use super::*;

fn of_bytes(bytes: usize) -> Event {
    // No two are the same.
    let fields = format!("{{\"n\":\"{}\",\"a\":\"{}\"}}", EventId::new(), "x".repeat(bytes));
    Event { fields, ..event("deal.edit", None) }
}

#[tokio::test]
async fn large_fields_stay_in_the_store_until_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    let large =
        Event { fields: format!("{{\"@known\":\"1\",\"a\":\"{}\"}}", "я".repeat(500_000)), ..event("a.b", None) };
    let small = of_bytes(16_000);
    for event in [&large, &small] {
        handle.append(event.clone()).await.unwrap();
    }
    let mut taken = handle.take(subscriptions(), vec![(queue("alpha"), 9)]).await.unwrap();
    let [first, second] = &mut taken.claimed[..] else { panic!("{taken:?}") };
    assert_eq!((first.event.fields.as_str(), first.unread), ("", u64::try_from(large.fields.len()).unwrap()));
    // As if it had come along: what a sender says of a known record counts for nothing.
    let whole = handle.whole(first).unwrap();
    assert_eq!(whole.fields, large.fields.replacen("\"@known\":\"1\",", "", 1));
    assert_eq!((second.event.fields.as_str(), second.unread), (small.fields.as_str(), 0));
    second.set_aside();
    assert!(second.event.fields.is_empty() && second.unread > 16_000);
    assert_eq!(handle.whole(second).unwrap(), small);

    // Put off, it comes at that time, with the number of an attempt that has not been used.
    let (delivery, attempt) = (first.delivery, first.attempt);
    handle.put_off(delivery, 9_000).await.unwrap();
    let again = handle.take(subscriptions(), vec![(queue("alpha"), 9)]).await.unwrap();
    assert!(again.claimed.is_empty() && again.next_due == Some(9_000), "{again:?}");
    let view = handle.delivery(delivery).unwrap().unwrap().delivery;
    assert_eq!((view.state, view.attempts.len(), attempt), (DeliveryState::Ready, 0, 1));
}

#[tokio::test]
async fn many_small_events_come_with_no_more_than_there_is_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1));
    let handle = journal.handle();
    for _ in 0..600 {
        handle.append(of_bytes(16_000)).await.unwrap();
    }
    while handle.take(subscriptions(), vec![]).await.unwrap().unrouted {}
    let mut claimed = Vec::new();
    while claimed.len() < 600 {
        let taken = handle.take(subscriptions(), vec![(queue("alpha"), 600)]).await.unwrap();
        assert!(!taken.claimed.is_empty());
        let carried: usize = taken.claimed.iter().map(|claimed| claimed.event.fields.len()).sum();
        assert!(carried <= 8 << 20, "{carried}");
        claimed.extend(taken.claimed);
    }
    let unread = claimed.iter().filter(|claimed| claimed.unread > 0).count();
    assert!((1..600).contains(&unread), "{unread}");
}
