//! A short run of each kind of trouble from below; `cargo xtask faults` runs for longer, from other seeds.

use std::time::Duration;

use integration_tests::faults::{KINDS_OF_DAMAGE, Kind, Options, possible, run};

/// Whether this is a kind of machine on which faults can be made. On such a one nothing is left out: no compiler is a failure.
pub(crate) fn able() -> bool {
    possible().inspect_err(|error| eprintln!("skipped: {error:#}")).is_ok()
}

async fn short(kind: Kind, seed: u64) {
    if !able() {
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
async fn damaged_pages_of_statistics_refuse_nothing_and_others_are_named_with_the_way_back() {
    for seed in 0..KINDS_OF_DAMAGE {
        short(Kind::Damage, seed).await;
    }
}
