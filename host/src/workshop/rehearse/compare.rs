//! What differs between an attempt that was recorded and its rehearsal: the outcome, and the writes to CRM and outside.
//!
//! Not compared: reads, log lines, and state, of which a host records what was read and not what was written.

use serde::Serialize;
use serde_json::{Map, Value};

use super::record::{Recording, is_write, same};
use super::{Rehearsal, Written};
use crate::outcome::HostCall;

/// Then and now.
#[derive(Debug, Serialize, PartialEq)]
pub struct Comparison {
    /// Whether the outcome is of the same kind and the writes are equal.
    pub equal: bool,
    /// The version that ran then.
    pub version_then: String,
    /// What it came to then.
    pub outcome_then: String,
    /// Why.
    pub reason_then: String,
    /// What it comes to now.
    pub outcome_now: String,
    /// Why.
    pub reason_now: String,
    /// Writes that are as they were.
    pub same: usize,
    /// Writes that are not.
    pub writes: Vec<Difference>,
}

/// How one write differs.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "lowercase", tag = "how")]
pub enum Difference {
    /// It was not made then.
    Added(Written),
    /// It is no longer made.
    Gone(Written),
    /// It is made with other arguments.
    Changed {
        /// Which.
        call: String,
        /// What differs.
        arguments: Vec<Argument>,
    },
}

/// One argument that differs.
#[derive(Debug, Serialize, PartialEq)]
pub struct Argument {
    /// Its name; empty where the request is not a JSON object.
    pub name: String,
    /// What it was; null: not sent.
    pub then: Option<Value>,
    /// What it is; null: not sent.
    pub now: Option<Value>,
}

/// Sets an attempt and its rehearsal side by side.
pub fn compare(recording: &Recording, rehearsal: &Rehearsal) -> Comparison {
    let mut gone = written(&recording.calls);
    let mut added = Vec::new();
    let before = gone.len();
    for now in &rehearsal.writes {
        match gone.iter().position(|then| then.call == now.call && same(&then.request, &now.request)) {
            Some(at) => drop(gone.remove(at)),
            None => added.push(now.clone()),
        }
    }
    let same = before - gone.len();
    let mut writes = Vec::new();
    for now in added {
        match gone.iter().position(|then| then.call == now.call) {
            Some(at) => {
                let then = gone.remove(at);
                writes.push(Difference::Changed { arguments: arguments(&then.request, &now.request), call: now.call });
            }
            None => writes.push(Difference::Added(now)),
        }
    }
    writes.extend(gone.into_iter().map(Difference::Gone));
    Comparison {
        equal: recording.outcome == rehearsal.outcome && writes.is_empty(),
        version_then: recording.version.clone(),
        outcome_then: recording.outcome.clone(),
        reason_then: recording.reason.clone(),
        outcome_now: rehearsal.outcome.clone(),
        reason_now: rehearsal.reason.clone(),
        same,
        writes,
    }
}

/// The writes among some calls, in order.
pub(super) fn written(calls: &[HostCall]) -> Vec<Written> {
    let writes = calls.iter().filter(|call| is_write(&call.call));
    writes.map(|call| Written { call: bare(&call.call).to_owned(), request: call.request.clone() }).collect()
}

/// A call without what is said about its answer.
fn bare(call: &str) -> &str {
    call.split_once(" (").map_or(call, |(bare, _)| bare)
}

fn arguments(then: &str, now: &str) -> Vec<Argument> {
    let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
    let (Some(before), Some(after)) = (object(then), object(now)) else {
        return vec![Argument { name: String::new(), then: Some(then.into()), now: Some(now.into()) }];
    };
    let new = after.keys().filter(|name| !before.contains_key(*name));
    let differs = |name: &&String| before.get(*name) != after.get(*name);
    let argument =
        |name: &String| Argument { name: name.clone(), then: before.get(name).cloned(), now: after.get(name).cloned() };
    before.keys().chain(new).filter(differs).map(argument).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(call: &str, request: Value) -> HostCall {
        let request = request.to_string();
        HostCall { at: 0, took: 0, call: call.to_owned(), request, answer: String::new(), good: true }
    }

    #[test]
    fn what_an_attempt_wrote_is_neither_a_read_nor_told_twice() {
        let calls = [
            call("crm deal.list", json!({})),
            call("crm task.add (done before)", json!({ "a": 1 })),
            call("http get https://a.example", json!({})),
            call("http POST https://a.example", json!({ "b": 2 })),
            call("state read", json!("x")),
        ];
        let names: Vec<String> = written(&calls).into_iter().map(|write| write.call).collect();
        assert_eq!(names, ["crm task.add", "http POST https://a.example"]);
    }

    #[test]
    fn only_the_arguments_that_differ_are_shown() {
        let then = json!({ "title": "old", "did": 4, "user": "ui" }).to_string();
        let now = json!({ "did": 4, "title": "new", "kind": 1 }).to_string();
        let argument = |name: &str, then: Option<Value>, now: Option<Value>| Argument { name: name.into(), then, now };
        assert_eq!(
            arguments(&then, &now),
            [
                argument("title", Some("old".into()), Some("new".into())),
                argument("user", Some("ui".into()), None),
                argument("kind", None, Some(1.into())),
            ]
        );
    }
}
