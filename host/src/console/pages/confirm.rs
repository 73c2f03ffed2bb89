//! The step before what can't be undone: how many things are meant, the first of them, and one button.
//!
//! - The form that follows bears the bounds of what was counted, so that it is decided about just that: what comes, or dies,
//!   while somebody reads is not meant.
//! - It works without scripts, and bears the session's word as every form does.

use askama::Template;
use axum::response::Response;

use super::forms::Form;
use super::frame::Frame;
use super::{Role, Words, own_page, page};
use crate::console::{Console, Problem, blocking};
use crate::journal::{Counted, DeliveryId, DeliveryPath, EventSummary};
use crate::plugin::PluginName;

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    question: &'static str,
    count: u64,
    /// Time, event, record, plugin, error.
    first: Vec<[String; 5]>,
    action: &'static str,
    hidden: Vec<(&'a str, String)>,
    next: &'a str,
    button: &'static str,
}

fn shown(form: &Form, question: ConfirmPage<'_>) -> Response {
    let next = Some(form.asked.get("next")).filter(|next| own_page(next)).unwrap_or("/console");
    page(&ConfirmPage { next, ..question })
}

fn kept<'a>(hidden: &[(&'a str, &str)], bounds: &[(&'a str, i64)]) -> Vec<(&'a str, String)> {
    let kept = hidden.iter().map(|(key, value)| (*key, (*value).to_owned()));
    kept.chain(bounds.iter().map(|(key, value)| (*key, value.to_string()))).collect()
}

/// All dead letters of a filter.
pub(super) fn letters(form: &Form, counted: &Counted, hidden: &[(&str, &str)]) -> Response {
    let (frame, w) = (&form.frame, form.frame.words());
    let first = counted.first.iter().map(|letter| {
        let error = letter.code.clone().unwrap_or_default();
        [
            frame.time(&letter.at),
            letter.name.clone(),
            letter.entity.clone().unwrap_or_default(),
            letter.plugin.clone(),
            error,
        ]
    });
    let mut hidden = kept(hidden, &[("before", counted.until), ("up_to", counted.up_to)]);
    hidden.push(("do", "drop".to_owned()));
    shown(
        form,
        ConfirmPage {
            frame,
            w,
            question: w.drop_question,
            count: counted.letters,
            first: first.collect(),
            action: "/console/dead/all",
            hidden,
            next: "",
            button: w.give_up_really,
        },
    )
}

/// Dead letters that were chosen one by one.
pub(super) async fn these(form: &Form, console: &Console, chosen: &[DeliveryId]) -> Result<Response, Problem> {
    let (frame, w) = (&form.frame, form.frame.words());
    let (journal, some) = (console.journal.clone(), chosen.iter().copied().take(super::ROWS).collect::<Vec<_>>());
    let read =
        move || some.into_iter().filter_map(|id| journal.delivery(id).transpose()).collect::<Result<Vec<_>, _>>();
    let mut first = blocking(read).await?;
    first.iter_mut().for_each(|path| console.mask.delivery(path));
    let row = |DeliveryPath { event, delivery, .. }: &DeliveryPath| {
        let (entity, error) = (event.entity.clone().unwrap_or_default(), delivery.code.clone().unwrap_or_default());
        [frame.time(&delivery.at), event.name.clone(), entity, delivery.plugin.clone(), error]
    };
    let mut hidden = kept(&[("do", "drop")], &[("before", console.clock.now())]);
    hidden.extend(chosen.iter().map(|DeliveryId(id)| ("delivery", id.to_string())));
    let question = ConfirmPage {
        frame,
        w,
        question: w.drop_question,
        count: u64::try_from(chosen.len()).unwrap_or(u64::MAX),
        first: first.iter().map(row).collect(),
        action: "/console/dead/some",
        hidden,
        next: "",
        button: w.give_up_really,
    };
    Ok(shown(form, question))
}

/// All events of a filter, once more for a plugin.
pub(super) fn events(
    form: &Form,
    plugin: &PluginName,
    count: usize,
    first: Vec<EventSummary>,
    hidden: &[(&str, &str)],
    until: i64,
) -> Response {
    let (frame, w) = (&form.frame, form.frame.words());
    let first = first.into_iter().map(|event| {
        [
            frame.time(&event.received_at),
            event.name,
            event.entity.unwrap_or_default(),
            plugin.to_string(),
            String::new(),
        ]
    });
    let question = ConfirmPage {
        frame,
        w,
        question: w.replay_question,
        count: u64::try_from(count).unwrap_or(u64::MAX),
        first: first.collect(),
        action: "/console/events/replay",
        hidden: kept(hidden, &[("before", until)]),
        next: "",
        button: w.replay,
    };
    shown(form, question)
}
