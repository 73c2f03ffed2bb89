//! What was acknowledged is there after the process is killed, and every delivery ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration_tests::host::Setup;
use integration_tests::wait_until;

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_host_is_killed_under_load() {
    let mut host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..4_u32 {
        let (base, answered) = (host.hook(), Arc::new(AtomicUsize::new(0)));
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (hook, client) = (base.clone(), integration_tests::host::http_client().unwrap());
                let answered = Arc::clone(&answered);
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    for n in 0..100_000_u32 {
                        let body = format!("event=test.sin&id={}&sin=none&round={round}", n % 7 + sender * 100);
                        let request =
                            client.post(&hook).header("content-type", "application/x-www-form-urlencoded").body(body);
                        // The first failure is the kill.
                        let Ok(response) = request.send().await else { break };
                        if response.status().as_u16() != 202 {
                            break;
                        }
                        let Ok(text) = response.text().await else { break };
                        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                        ids.push(answer["id"].as_str().unwrap().to_owned());
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    ids
                })
            })
            .collect();
        // Not always at the same moment of the host's work.
        let enough = 40 + 17 * round as usize;
        wait_until("enough acknowledgements", Duration::from_secs(20), async || {
            Ok((answered.load(Ordering::SeqCst) >= enough).then_some(()))
        })
        .await
        .unwrap();
        host.kill().unwrap();
        for sender in senders {
            acknowledged.extend(sender.await.unwrap());
        }
        host.start().await.unwrap();
    }
    assert!(acknowledged.len() > 200, "only {} events were sent", acknowledged.len());
    host.idle(Duration::from_secs(60)).await.unwrap();
    for id in &acknowledged {
        let path = host.settled(id).await.unwrap();
        assert_eq!(path["deliveries"][0]["state"], "done", "{path}");
    }
    assert_eq!(host.stop().await.unwrap(), Some(0));
}
