//! The chain of causes as a picture: the events and plugins before this event, and the events that its deliveries caused.

use super::Words;
use crate::journal::EventPath;

/// Places of the picture.
const STEP: i64 = 210;
const ROW: i64 = 60;
/// Links before, and events behind, that are drawn.
const MOST_BEFORE: usize = 6;
const MOST_BEHIND: usize = 12;

pub(super) struct Chain {
    pub(super) width: i64,
    pub(super) height: i64,
    pub(super) summary: String,
    pub(super) nodes: Vec<Node>,
    /// From a point to a point.
    pub(super) lines: Vec<(i64, i64, i64, i64)>,
}

pub(super) struct Node {
    pub(super) kind: &'static str,
    pub(super) x: i64,
    pub(super) y: i64,
    pub(super) title: String,
    pub(super) note: String,
    pub(super) href: Option<String>,
}

fn short(text: &str) -> String {
    if text.chars().count() <= 22 { text.to_owned() } else { text.chars().take(21).chain(['…']).collect() }
}

impl Chain {
    /// The picture; none where nothing caused the event, and nothing was caused by it.
    pub(super) fn of(w: &Words, path: &EventPath) -> Option<Self> {
        let caused: usize = path.deliveries.iter().map(|delivery| delivery.caused.len()).sum();
        if path.caused_by.is_empty() && caused == 0 {
            return None;
        }
        let mut chain = Self { width: 0, height: 0, summary: String::new(), nodes: Vec::new(), lines: Vec::new() };
        let mut words = Vec::new();
        let mut column = 0;
        for link in path.caused_by.iter().take(MOST_BEFORE).rev() {
            chain.put(
                "event",
                column,
                0,
                &link.name,
                link.entity.as_deref(),
                Some(format!("/console/events/{}", link.event)),
            );
            chain.put(
                "plugin",
                column + 1,
                0,
                &link.plugin,
                None,
                Some(format!("/console/events/{}#d{}", link.event, link.delivery)),
            );
            chain.join(column, 0, column + 1, 0);
            chain.join(column + 1, 0, column + 2, 0);
            words.extend([link.name.clone(), link.plugin.clone()]);
            column += 2;
        }
        chain.put("this", column, 0, &path.event.name, Some(w.this_event), None);
        words.push(path.event.name.clone());
        let mut row = 0;
        for delivery in path.deliveries.iter().filter(|delivery| !delivery.caused.is_empty()) {
            chain.join(column, 0, column + 1, row);
            chain.put("plugin", column + 1, row, &delivery.plugin, None, Some(format!("#d{}", delivery.id)));
            let first = row;
            for caused in delivery.caused.iter().take(MOST_BEHIND) {
                chain.join(column + 1, first, column + 2, row);
                let href = Some(format!("/console/events/{}", caused.event));
                chain.put("event", column + 2, row, &caused.name, caused.entity.as_deref(), href);
                row += 1;
            }
            words.push(format!("{} ({})", delivery.plugin, delivery.caused.len()));
        }
        chain.summary = format!("{}: {}", w.causes, words.join(" → "));
        Some(chain)
    }

    fn put(
        &mut self,
        kind: &'static str,
        column: i64,
        row: i64,
        title: &str,
        note: Option<&str>,
        href: Option<String>,
    ) {
        let (x, y) = (4 + column * STEP, 4 + row * ROW);
        self.width = self.width.max(x + 174);
        self.height = self.height.max(y + 48);
        let (title, note) = (short(title), short(note.unwrap_or_default()));
        self.nodes.push(Node { kind, x, y, title, note, href });
    }

    fn join(&mut self, column: i64, row: i64, to_column: i64, to_row: i64) {
        self.lines.push((4 + column * STEP + 170, 26 + row * ROW, 4 + to_column * STEP, 26 + to_row * ROW));
    }
}
