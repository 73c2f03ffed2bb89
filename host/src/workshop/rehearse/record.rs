//! A recorded delivery: one attempt as a running host's API shows it (`GET /api/v1/deliveries/{id}`), to be run again.
//!
//! - A call gets the answer of the same call with the same arguments; else of the next call of that name that is left.
//! - State that the attempt saw is there again, and so are answers of writes that an earlier attempt had done.
//! - What can't be rebuilt: answers that were cut; headers of answers from outside, and bodies that are not text; values
//!   behind listed keys that were not read; how long answers took; the plugin's own clock and random numbers; settings and
//!   grants of then, which are those of the rehearsal.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Error, event};
use crate::capabilities::{self, OutsideAnswer, STATE_KEYS, STATE_READ, STATE_READ_NONE, is_cut};
use crate::crm::{self, is_read};
use crate::event::Event;
use crate::outcome::HostCall;

/// One attempt of a delivery.
#[derive(Debug, Deserialize)]
struct Attempt {
    number: u32,
    version: String,
    outcome: String,
    reason: String,
    calls: Vec<HostCall>,
}

/// The API's answer.
#[derive(Debug, Deserialize)]
struct Delivery {
    plugin: String,
    attempts: Vec<Attempt>,
}

/// One attempt that was made elsewhere.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The event, as it was.
    pub event: Event,
    /// For whom.
    pub plugin: String,
    /// Which attempt.
    pub attempt: u32,
    /// The version that ran.
    pub version: String,
    /// What it came to.
    pub outcome: String,
    /// Why.
    pub reason: String,
    /// Its calls.
    pub calls: Vec<HostCall>,
    used: BTreeSet<usize>,
    guessed: BTreeSet<String>,
}

impl Recording {
    /// Reads the API's answer; `attempt` is the last one that ran to an end where none is given.
    ///
    /// # Errors
    /// [`Error::Recording`]: it is no delivery, or has no such attempt.
    pub fn parse(answer: &Value, attempt: Option<u32>) -> Result<Self, Error> {
        let wrong = |words: String| Error::Recording(words);
        let whole = answer.as_object().ok_or_else(|| wrong("it is not a JSON object".into()))?;
        let event = event::from_api(whole).map_err(wrong)?;
        let delivery = whole.get("delivery").cloned().unwrap_or_default();
        let delivery: Delivery =
            serde_json::from_value(delivery).map_err(|error| wrong(format!("`delivery`: {error}")))?;
        let known: Vec<u32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
        let ended = |found: &Attempt| !matches!(found.outcome.as_str(), "interrupted" | "conflict");
        let fits = |found: &Attempt| attempt.map_or_else(|| ended(found), |number| found.number == number);
        let Some(attempt) = delivery.attempts.into_iter().rev().find(fits) else {
            let asked = attempt.map_or("attempt that ran to an end".to_owned(), |number| format!("attempt {number}"));
            return Err(wrong(format!("the delivery has no {asked}; recorded are {known:?}")));
        };
        let Attempt { number, version, outcome, reason, calls } = attempt;
        let (used, guessed) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { event, plugin: delivery.plugin, attempt: number, version, outcome, reason, calls, used, guessed })
    }

    /// What the stored state must be so that the plugin sees what it saw then.
    pub fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for call in self.calls.iter().filter(|call| call.call == STATE_KEYS) {
            let keys: Vec<String> = serde_json::from_str(&call.answer).unwrap_or_default();
            state.extend(keys.into_iter().map(|key| (key, String::new())));
        }
        for call in &self.calls {
            match call.call.as_str() {
                // Half a value would be a wrong one.
                STATE_READ if is_cut(&call.answer) => drop(state.remove(&call.request)),
                STATE_READ => drop(state.insert(call.request.clone(), call.answer.clone())),
                STATE_READ_NONE => drop(state.remove(&call.request)),
                _ => {}
            }
        }
        state
    }

    /// Whether it is known what was stored at a key.
    pub(super) fn knows(&self, key: &str) -> bool {
        let read = |call: &HostCall| matches!(call.call.as_str(), STATE_READ | STATE_READ_NONE) && call.request == key;
        self.calls.iter().any(|call| read(call) && !is_cut(&call.answer))
    }

    /// Writes of earlier attempts whose answers this one got: digest, occurrence, call, answer.
    pub fn done_before(&self) -> Vec<([u8; 16], u32, String, String)> {
        let mut asked: BTreeMap<[u8; 16], u32> = BTreeMap::new();
        let mut done = Vec::new();
        for call in &self.calls {
            let Some((name, again)) = crm_call(&call.call).filter(|(name, _)| writes(name)) else { continue };
            let arguments: Value = serde_json::from_str(&call.request).unwrap_or_default();
            let safe = again && arguments.as_object().is_some_and(is_safe_update);
            let known = if safe { capabilities::safe(name) } else { name.to_owned() };
            let digest = capabilities::digest(&known, &arguments);
            let occurrence = asked.entry(digest).or_default();
            if again && call.good {
                done.push((digest, *occurrence, name.to_owned(), call.answer.clone()));
            }
            *occurrence += 1;
        }
        done
    }

    /// What of the recording is no longer whole, in words.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        for call in &self.calls {
            if call.call == STATE_READ && is_cut(&call.answer) {
                gaps.push(format!(
                    "the stored value of `{}` was too long to be recorded whole: it is missing",
                    call.request
                ));
            } else if is_cut(&call.answer) {
                gaps.push(format!(
                    "the answer of `{}` was too long to be recorded whole: it can't be given again",
                    call.call
                ));
            } else if is_cut(&call.request) {
                gaps.push(format!(
                    "the request of `{}` was too long to be recorded whole: only its start is compared",
                    call.call
                ));
            }
            if not_granted(call) {
                gaps.push(format!("`{}` was refused for want of a grant: it has no answer", call.call));
            }
            if call.call.ends_with("(uncertain)") {
                gaps.push(format!("`{}`: the doubt is given again as an error; it is not settled anew", call.call));
            }
        }
        gaps
    }

    /// Reads that got the answer of other arguments, in words.
    pub(super) fn guesses(&self) -> Vec<String> {
        let told =
            |call: &String| format!("`{call}` asks with other arguments than then, and got the next recorded answer");
        self.guessed.iter().map(told).collect()
    }

    /// Calls of then that were not made again: reads and writes alike.
    pub(super) fn unused(&self) -> Vec<String> {
        let calls = (0..).zip(&self.calls);
        let asked = calls.filter(|(index, call)| !self.used.contains(index) && !is_state(call) && !settled(call));
        asked.map(|(_, call)| call.call.clone()).collect()
    }

    /// The CRM's answer of then; `None`: it was never asked so.
    pub(super) fn crm(&mut self, call: &str, arguments: &Map<String, Value>) -> Option<Result<String, crm::Error>> {
        let request = Value::Object(arguments.clone()).to_string();
        let found = self.find(|recorded| crm_call(recorded).is_some_and(|(name, _)| name == call), &request)?;
        Some(if found.good { Ok(found.answer.clone()) } else { Err(crm::Error::from_words(&found.answer)) })
    }

    /// The answer from outside of then. Of the address only the origin is recorded.
    pub(super) fn outside(&mut self, method: &str, origin: &str, body: &[u8]) -> Option<Result<OutsideAnswer, String>> {
        let request = String::from_utf8_lossy(body);
        let call = format!("http {method} {origin}");
        let found = self.find(|recorded| recorded.eq_ignore_ascii_case(&call), &request)?;
        if !found.good {
            return Some(Err(found.answer.clone()));
        }
        let (status, body) = found.answer.split_once(' ').unwrap_or((&found.answer, ""));
        let status = status.parse().unwrap_or(200);
        Some(Ok(OutsideAnswer { status, headers: Vec::new(), body: body.as_bytes().to_vec() }))
    }

    /// The recorded call that fits best; cut answers are `None`.
    fn find(&mut self, named: impl Fn(&str) -> bool, request: &str) -> Option<&HostCall> {
        let candidates: Vec<(usize, bool)> = (0..)
            .zip(&self.calls)
            .filter(|(_, call)| named(&call.call) && !not_granted(call))
            .map(|(index, call)| (index, same(&call.request, request)))
            .collect();
        let unused = |index: &usize| !self.used.contains(index);
        let mut exact = candidates.iter().filter(|(_, same)| *same).map(|(index, _)| *index);
        let chosen = exact
            .clone()
            .find(unused)
            .or_else(|| candidates.iter().map(|(index, _)| *index).find(unused))
            .or_else(|| exact.next_back())?;
        self.used.insert(chosen);
        let call = self.calls.get(chosen)?;
        if !same(&call.request, request) && !is_write(&call.call) {
            self.guessed.insert(call.call.clone());
        }
        Some(call).filter(|call| !is_cut(&call.answer))
    }
}

/// `deal.list` of `crm deal.list` and of `crm deal.list (done before)`, and whether the answer was one of before.
pub(super) fn crm_call(recorded: &str) -> Option<(&str, bool)> {
    let call = recorded.strip_prefix("crm ")?;
    Some(match call.split_once(" (") {
        Some((name, _)) => (name, true),
        None => (call, false),
    })
}

/// Whether `method.action` writes.
fn writes(call: &str) -> bool {
    !call.split_once('.').is_some_and(|(_, action)| is_read(action))
}

/// Whether a recorded call changes something in the CRM or outside.
pub(super) fn is_write(call: &str) -> bool {
    let method = call.strip_prefix("http ").and_then(|rest| rest.split_once(' ')).map(|(method, _)| method);
    match (crm_call(call), method) {
        (Some((name, _)), _) => writes(name),
        (None, Some(method)) => !["GET", "HEAD"].iter().any(|read| read.eq_ignore_ascii_case(method)),
        (None, None) => false,
    }
}

/// Whether a call was refused by the host itself, for want of a grant.
fn not_granted(call: &HostCall) -> bool {
    let refused = ["` is not granted by the administrator: ", "` is not asked for by the plugin: "];
    !call.good && refused.iter().any(|words| call.answer.contains(words))
}

fn is_safe_update(arguments: &Map<String, Value>) -> bool {
    arguments.len() == 2 && arguments.contains_key("id") && arguments.get("changes").is_some_and(Value::is_object)
}

fn is_state(call: &HostCall) -> bool {
    call.call.starts_with("state ")
}

/// Whether a recorded call is one that the journal answers, not the CRM.
fn settled(call: &HostCall) -> bool {
    call.call.ends_with("(done before)") || call.call.ends_with("(was done: found)")
}

/// Whether two requests say the same; of one that was cut the start counts.
pub(super) fn same(recorded: &str, now: &str) -> bool {
    if recorded == now {
        return true;
    }
    if is_cut(recorded) {
        return recorded.rsplit_once("… (").is_some_and(|(kept, _)| now.starts_with(kept));
    }
    let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
    parsed(recorded).is_some_and(|recorded| Some(recorded) == parsed(now))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(call: &str, request: &str, answer: &str, good: bool) -> Value {
        json!({ "at": 1, "took": 1, "call": call, "request": request, "answer": answer, "good": good })
    }

    fn recording(calls: Vec<Value>) -> Recording {
        let attempt = |number: u32, outcome: &str, calls: Value| json!({ "number": number, "version": "1 (abc)", "outcome": outcome, "reason": "", "calls": calls });
        let answer = json!({
            "event": { "id": crate::event::EventId::new(), "account": "main", "name": "deal.add", "received_at": 5, "via": "json",
                       "actor": null, "entity": "deal:4" },
            "fields": { "did": "4" },
            "delivery": { "plugin": "a", "attempts": [attempt(1, "done", calls.into()), attempt(2, "interrupted", json!([]))] },
        });
        Recording::parse(&answer, None).unwrap()
    }

    #[test]
    fn the_same_arguments_get_the_same_answer_and_others_the_next_one() {
        let mut recorded = recording(vec![
            call("crm deal.list", r#"{"did":1,"n":"a"}"#, "one", true),
            call("crm deal.list", r#"{"did":2}"#, "two", true),
            call("crm client.info", "{}", "the CRM refused with code 404: нет", false),
            call("crm task.add", "{}", "cut… (70000 bytes)", true),
        ]);
        assert_eq!(recorded.attempt, 1);
        let mut ask = |name: &str, arguments: Value| recorded.crm(name, &serde_json::from_value(arguments).unwrap());
        let ok = |text: &str| Some(Ok(text.to_owned()));
        assert_eq!(ask("deal.list", json!({ "did": 2 })), ok("two"));
        assert_eq!(ask("deal.list", json!({ "did": 3 })), ok("one"));
        assert_eq!(ask("deal.list", json!({ "did": 3 })), None);
        assert_eq!(ask("deal.list", json!({ "n": "a", "did": 1 })), ok("one"));
        let refused = crm::Error::Refused { code: Some("404".into()), text: "нет".into() };
        assert_eq!(ask("client.info", json!({})), Some(Err(refused)));
        assert_eq!(ask("task.add", json!({})), None);
        assert_eq!(recorded.gaps().len(), 1);
        assert_eq!(recorded.guesses().len(), 1);
        assert_eq!(recorded.unused(), Vec::<String>::new());
    }

    #[test]
    fn a_call_that_was_not_granted_has_no_answer() {
        let refusal = "`task.add` is not granted by the administrator: add `crm = [\"task.add\"]` under …";
        let mut recorded = recording(vec![call("crm task.add", "{}", refusal, false)]);
        assert_eq!(recorded.crm("task.add", &Map::new()), None);
        assert_eq!(recorded.gaps().len(), 1);
    }

    #[test]
    fn state_and_writes_that_the_attempt_saw_are_rebuilt() {
        let recorded = recording(vec![
            call(STATE_READ, "count", "5", true),
            call(STATE_READ_NONE, "gone", "", true),
            call(STATE_KEYS, "{}", r#"["count","other"]"#, true),
            call("crm task.add", r#"{"title":"x"}"#, "{}", true),
            call("crm task.add (done before)", r#"{"title":"x"}"#, r#"{"data":7}"#, true),
            call("crm client.update (done before)", r#"{"id":3,"changes":{"phone":"1"}}"#, r#"["phone"]"#, true),
        ]);
        let state: Vec<(String, String)> = recorded.state().into_iter().collect();
        assert_eq!(state, [("count".into(), "5".into()), ("other".into(), String::new())]);
        let task = capabilities::digest("task.add", &json!({ "title": "x" }));
        let client = capabilities::digest("safe client.update", &json!({ "id": 3, "changes": { "phone": "1" } }));
        assert_eq!(
            recorded.done_before(),
            [
                (task, 1, "task.add".to_owned(), r#"{"data":7}"#.to_owned()),
                (client, 0, "client.update".to_owned(), r#"["phone"]"#.to_owned()),
            ]
        );
    }
}
