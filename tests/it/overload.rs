//! A full disk and a locked store cost a 503 and nothing else, and the service resumes by itself.

use std::time::Duration;

use integration_tests::host::{PATIENCE, Setup};
use integration_tests::wait_until;

/// Whether this machine lets a process have a disk of its own.
pub(crate) fn disks() -> bool {
    let status = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stderr(std::process::Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_full_disk_refuses_events_until_there_is_room_and_loses_none() {
    if !disks() {
        eprintln!("SKIPPED: this machine does not let a test mount a small disk (`unshare --user --mount`)");
        return;
    }
    let mut setup = Setup::new().unwrap().plugins(crate::guests());
    setup.disk = Some(3 << 20);
    setup.server = "min_free_mib = 0".to_owned();
    let mut host = setup.start().await.unwrap();
    // What this test writes into the host's own disk goes through the process's view of it.
    let seen = format!("/proc/{}/root{}", host.pid().unwrap(), host.data().display());
    let ballast = std::path::Path::new(&seen).join("ballast");
    let mut kept = vec![host.accepted("event=test.sin&id=1&sin=none&n=0").await.unwrap()];
    host.settled(&kept[0]).await.unwrap();

    // Somebody else fills the disk.
    let mut full = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut full, &[0; 4096]).is_ok() {}
    let filler = "x".repeat(20_000);
    let mut refused = None;
    for n in 1..200 {
        let (status, answer) = host.post(&format!("event=test.sin&id=1&sin=none&n={n}&x={filler}")).await.unwrap();
        match status {
            202 => kept.push(answer["id"].as_str().unwrap().to_owned()),
            503 => {
                refused = Some(answer);
                break;
            }
            other => panic!("{other} {answer}"),
        }
    }
    assert_eq!(refused.unwrap()["code"], "ingress.disk_full");
    // It still answers, and goes on by itself when there is room.
    assert!(host.api("backlog").await.is_ok());
    drop(full);
    std::fs::remove_file(&ballast).unwrap();
    let after = wait_until("an accepted event", PATIENCE, async || {
        let (status, answer) = host.post("event=test.sin&id=1&sin=none&n=last").await?;
        Ok((status == 202).then(|| answer["id"].as_str().unwrap().to_owned()))
    })
    .await
    .unwrap();
    kept.push(after);
    for id in kept {
        assert_eq!(host.settled(&id).await.unwrap()["deliveries"][0]["state"], "done");
    }
    assert_eq!(host.stop().await.unwrap(), Some(0), "{}", host.log());
}

#[tokio::test]
async fn new_events_are_refused_before_the_disk_is_full() {
    let mut setup = Setup::new().unwrap();
    // A tebibyte for each of a million: no disk has it.
    setup.server = "min_free_mib = 1073741824".to_owned();
    let host = setup.start().await.unwrap();
    let (status, answer) = host.post("event=test.sin").await.unwrap();
    assert_eq!((status, &answer["code"]), (503, &"ingress.disk_full".into()));
}

#[tokio::test]
async fn a_store_that_another_program_holds_costs_a_refusal_and_nothing_else() {
    let host = Setup::new().unwrap().plugins(crate::guests()).start().await.unwrap();
    let first = host.accepted("event=test.sin&id=1&sin=none&n=1").await.unwrap();
    host.settled(&first).await.unwrap();
    let other = rusqlite::Connection::open(host.data().join("journal.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (status, answer) = host.post("event=test.sin&id=1&sin=none&n=2").await.unwrap();
    assert_eq!((status, &answer["code"]), (503, &"ingress.not_stored".into()));
    other.execute_batch("ROLLBACK").unwrap();
    let next = host.accepted("event=test.sin&id=1&sin=none&n=3").await.unwrap();
    assert_eq!(host.settled(&next).await.unwrap()["deliveries"][0]["state"], "done");
    host.idle(Duration::from_secs(10)).await.unwrap();
}
