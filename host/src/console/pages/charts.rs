//! The overview's charts, as bars with places and sizes: the template only draws them.

use super::frame::Frame;
use crate::journal::Minute;

/// Where bars stand in the picture.
const LEFT: i64 = 62;
const WIDTH: i64 = 292;
const BOTTOM: i64 = 140;
const HEIGHT: i64 = 120;

pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) summary: String,
    pub(super) most: String,
    pub(super) bars: Vec<Bar>,
    pub(super) legend: Vec<(&'static str, &'static str)>,
    pub(super) first: String,
    pub(super) middle: String,
    pub(super) last: String,
}

pub(super) struct Bar {
    pub(super) kind: &'static str,
    pub(super) x: i64,
    pub(super) y: i64,
    pub(super) width: i64,
    pub(super) height: i64,
    pub(super) title: String,
}

/// Something that is drawn in one colour.
struct Series {
    kind: &'static str,
    words: &'static str,
    of: fn(&Minute) -> i64,
}

pub(super) fn all(frame: &Frame, minutes: &[Minute], now: i64, span: i64, step: i64) -> Vec<Chart> {
    let w = frame.words();
    let plain = |value: i64| value.to_string();
    let time = |value: i64| frame.took(&u64::try_from(value.saturating_mul(1_000)).unwrap_or(0));
    let events = [Series { kind: "events", words: w.events, of: |minute| minute.events }];
    let ends = [
        Series { kind: "good", words: w.good, of: |minute| minute.good },
        Series { kind: "failed", words: w.failed, of: |minute| minute.failed },
    ];
    let waits = [
        Series { kind: "slow", words: w.slowest, of: |minute| minute.slowest_ms },
        Series { kind: "events", words: w.average, of: |minute| minute.waited_ms },
    ];
    let board = Board { frame, minutes, now, span, step };
    vec![
        board.draw(w.events_per, &events, Shape::Stacked, &plain),
        board.draw(w.deliveries, &ends, Shape::Stacked, &plain),
        board.draw(w.to_done, &waits, Shape::Over, &time),
    ]
}

/// How several series share a place.
#[derive(PartialEq)]
enum Shape {
    /// One on top of the other.
    Stacked,
    /// One before the other, the taller behind.
    Over,
}

struct Board<'a> {
    frame: &'a Frame,
    minutes: &'a [Minute],
    now: i64,
    span: i64,
    step: i64,
}

impl Board<'_> {
    fn draw(&self, title: &'static str, series: &[Series], shape: Shape, words: &dyn Fn(i64) -> String) -> Chart {
        let w = self.frame.words();
        let step = self.step * 60_000;
        let slots = self.span / self.step;
        let newest = self.now.div_euclid(step) * step;
        let first = newest - (slots - 1) * step;
        let value = |minute: &Minute| {
            let values = series.iter().map(|one| (one.of)(minute));
            if shape == Shape::Stacked { values.sum() } else { values.max().unwrap_or(0) }
        };
        let shown = || self.minutes.iter().filter(|minute| (first..=newest).contains(&minute.at));
        let most: i64 = shown().map(value).max().unwrap_or(0).max(1);
        let mut bars = Vec::new();
        for minute in shown() {
            let slot = (minute.at - first) / step;
            let (left, right) = (LEFT + slot * WIDTH / slots, LEFT + (slot + 1) * WIDTH / slots);
            let when = self.frame.moment(minute.at, self.span > 1_440);
            let mut under = 0;
            for one in series {
                let value = (one.of)(minute);
                // What is there at all is seen.
                let height = (value * HEIGHT / most).max(i64::from(value > 0) * 2).min(HEIGHT - under);
                if height > 0 {
                    let width = (right - left - 1).max(1);
                    let title = format!("{when}: {}, {}", words(value), one.words);
                    bars.push(Bar { kind: one.kind, x: left, y: BOTTOM - under - height, width, height, title });
                }
                if shape == Shape::Stacked {
                    under += height;
                }
            }
        }
        let totals: Vec<String> = series
            .iter()
            .map(|one| match shape {
                Shape::Stacked => {
                    let total = shown().map(|minute| (one.of)(minute)).sum();
                    format!("{}: {} {}", one.words, words(total), w.total_word)
                }
                Shape::Over => {
                    let most = shown().map(|minute| (one.of)(minute)).max().unwrap_or(0);
                    format!("{}: {} {}", one.words, w.most_word, words(most))
                }
            })
            .collect();
        let moment = |at| self.frame.moment(at, self.span > 1_440);
        Chart {
            title,
            summary: format!("{title}, {} – {}. {}", moment(first), moment(newest), totals.join("; ")),
            most: words(most),
            bars,
            legend: series.iter().map(|one| (one.kind, one.words)).collect(),
            first: moment(first),
            middle: moment(first + (newest - first) / 2),
            last: moment(newest),
        }
    }
}
