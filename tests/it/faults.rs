//! A short run of each kind of trouble from below; `cargo xtask faults` runs for longer, from other seeds.

use std::time::Duration;

use integration_tests::faults::{Kind, Options, possible, run};

async fn short(kind: Kind, seed: u64) {
    if let Err(error) = possible() {
        eprintln!("skipped: {error}");
        return;
    }
    let options = Options { seed, time: Duration::ZERO, kinds: vec![kind], guests: crate::guests() };
    let report = run(&options, |_| {}).await.map_err(|error| format!("{error:#}")).unwrap();
    println!("{:#}", report.figures());
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_with_the_power() {
    short(Kind::Power, 20_261_124).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_with_the_power_after_syncs_that_failed() {
    short(Kind::Power, 20_261_125).await;
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_costs_refusals_and_nothing_else() {
    short(Kind::Disk, 20_261_126).await;
}

#[tokio::test]
async fn a_clock_that_steps_a_year_makes_no_delivery_wait_for_it() {
    short(Kind::Clock, 20_261_126).await;
}

#[tokio::test]
async fn a_reader_that_stays_holds_up_nothing_and_leaves_no_log_behind() {
    short(Kind::Reader, 20_261_126).await;
}

#[tokio::test]
async fn damaged_pages_of_statistics_and_of_an_index_refuse_no_event() {
    for seed in 20_261_124..20_261_128 {
        short(Kind::Damage, seed).await;
    }
}
