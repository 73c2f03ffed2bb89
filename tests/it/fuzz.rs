//! A short run over damaged input of every kind; `cargo xtask fuzz` runs for longer, from other seeds.

use std::time::Duration;

use integration_tests::fuzz::{Options, Target, run};

#[tokio::test]
async fn damaged_input_of_any_kind_is_refused_in_words_and_costs_little() {
    let options = Options { seed: 20_261_126, time: Duration::from_secs(8), targets: Target::ALL.to_vec() };
    let report = run(&options, &crate::samples()).await.unwrap();
    assert!(report.found.is_none(), "{:?}", report.found);
    for target in Target::ALL {
        let count = report.counts[&target];
        assert!(count.inputs > 0 && count.slowest < Duration::from_secs(10), "{target:?}: {count:?}");
    }
    println!("{:#}", report.figures());
}
