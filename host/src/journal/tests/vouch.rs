//! An operator's word on writes in doubt: all of an order or nothing, and the delivery runs again with the last doubt.

use super::*;
use crate::event::content::Content;
use crate::outcome::{Fault, FaultKind};

const DONE: fn(&str) -> Word = |answer| Word::Done { answer: answer.to_owned(), record: Some("5".to_owned()) };

async fn intend(handle: &Handle, delivery: DeliveryId, digest: u8) -> Intended {
    let write = Write { delivery, digest: [digest; 16], occurrence: 0 };
    let intent = Intent {
        write,
        call: "task.add".to_owned(),
        account: "main".to_owned(),
        kind: "task".to_owned(),
        record: None,
        content: Content::default(),
        effects: Vec::new(),
        not_done: false,
    };
    handle.intend(intent).await.unwrap()
}

fn state(handle: &Handle, delivery: DeliveryId) -> (DeliveryState, Vec<bool>) {
    let view = handle.delivery(delivery).unwrap().unwrap().delivery;
    (view.state, view.writes.iter().map(|write| write.uncertain).collect())
}

#[tokio::test]
async fn a_delivery_runs_again_when_the_last_of_its_writes_is_no_longer_in_doubt_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path(), &Clock::manual(1_000));
    let handle = journal.handle();
    handle.append(event("client.edit", Some(1))).await.unwrap();
    let claimed = handle.take(subscriptions(), vec![(queue("alpha"), 1)]).await.unwrap().claimed.remove(0);
    let delivery = claimed.delivery;
    for digest in 1..=3 {
        assert_eq!(intend(&handle, delivery, digest).await, Intended::New);
    }
    let answered = Write { delivery, digest: [3; 16], occurrence: 0 };
    handle.written(answered, Written::Answered { answer: "{}".to_owned(), record: None }).await.unwrap();
    let [first, second, third] = [1, 2, 3].map(|digest: u8| format!("{}-0", format!("{digest:02x}").repeat(4)));
    // It runs: nobody is asked.
    let word = |key: &String, word: Word| vec![(key.clone(), word)];
    assert_eq!(handle.vouch(delivery, word(&first, Word::Send)).await.unwrap().changed, 0);
    let failed = Outcome::Failed(Fault::new(FaultKind::Uncertain, "x"));
    handle.settle(settlement(&claimed, failed, Next::Dead)).await.unwrap();
    assert_eq!(state(&handle, delivery), (DeliveryState::Dead, vec![true, true, false]));
    // One word that can't be taken: none is.
    for wrong in [&third, &"00000000-0".to_owned()] {
        let words = vec![(first.clone(), DONE("{}")), (wrong.clone(), Word::Send)];
        assert_eq!(handle.vouch(delivery, words).await.unwrap(), Operated::default());
    }
    assert_eq!(state(&handle, delivery), (DeliveryState::Dead, vec![true, true, false]));
    let taken = handle.vouch(delivery, word(&first, DONE("{\"data\":5}"))).await.unwrap();
    assert_eq!((taken.changed, taken.left), (1, 1));
    assert_eq!(state(&handle, delivery), (DeliveryState::Dead, vec![false, true, false]));
    let taken = handle.vouch(delivery, word(&second, Word::Send)).await.unwrap();
    assert_eq!((taken.changed, taken.left), (1, 0));
    assert_eq!(state(&handle, delivery).0, DeliveryState::Ready);
    // The plugin gets the one answer, and the other is sent: once.
    let again = handle.take(subscriptions(), vec![(queue("alpha"), 1)]).await.unwrap().claimed;
    assert_eq!(again[0].delivery, delivery);
    assert_eq!(intend(&handle, delivery, 1).await, Intended::Answered("{\"data\":5}".to_owned()));
    assert_eq!(intend(&handle, delivery, 2).await, Intended::New);
    assert!(matches!(intend(&handle, delivery, 2).await, Intended::Uncertain { .. }));
}
