//! A file of answers: what the CRM and the outside say in a rehearsal.
//!
//! A JSON list, or one JSON object a line. Of the entries that fit a call each is used once, in order, and the last one
//! again and again; those that name arguments go before those that don't.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Error;
use crate::capabilities::OutsideAnswer;
use crate::crm;

/// One entry of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// `deal.list`, or `POST https://chat.example.com/hook`; an address without a path stands for all of its origin.
    call: String,
    /// What the call's arguments (or the fields of its JSON body) must hold for the entry to fit.
    arguments: Option<Map<String, Value>>,
    /// The CRM's body. Text is sent as it stands.
    answer: Option<Value>,
    /// No answer comes, for this reason.
    error: Option<String>,
    /// Of an answer from outside: 200 by default.
    status: Option<u16>,
    /// Of an answer from outside: text as it stands, anything else as JSON.
    body: Option<Value>,
    /// Of an answer from outside.
    headers: Option<Map<String, Value>>,
}

/// The entries, and which of them were used.
#[derive(Debug, Default)]
pub struct Answers {
    entries: Vec<(Entry, bool)>,
}

impl Answers {
    /// Reads the file's text.
    ///
    /// # Errors
    /// [`Error::Answers`] names the entry and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |what: String, cause: String| Error::Answers(format!("{what}: {cause}"));
        let entries: Vec<Value> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text).map_err(|error| wrong("the list".into(), error.to_string()))?
        } else {
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
            lines
                .map(|(number, line)| {
                    serde_json::from_str(line).map_err(|error| wrong(format!("line {number}"), error.to_string()))
                })
                .collect::<Result<_, _>>()?
        };
        let mut parsed = Vec::new();
        for (number, entry) in (1..).zip(entries) {
            let entry: Entry =
                serde_json::from_value(entry).map_err(|error| wrong(format!("entry {number}"), error.to_string()))?;
            checked(&entry).map_err(|cause| wrong(format!("entry {number}, `{}`", entry.call), cause.into()))?;
            parsed.push((entry, false));
        }
        Ok(Self { entries: parsed })
    }

    /// The CRM's body for a call, where an entry fits.
    pub(super) fn crm(&mut self, call: &str, arguments: &Map<String, Value>) -> Option<Result<String, crm::Error>> {
        let entry = self.pick(|entry| entry.call == call, Some(arguments))?;
        Some(match (&entry.answer, &entry.error) {
            (_, Some(words)) => Err(crm::Error::Transport(words.clone())),
            (Some(Value::String(text)), _) => Ok(text.clone()),
            (answer, _) => Ok(answer.clone().unwrap_or_default().to_string()),
        })
    }

    /// The answer to a request, where an entry fits.
    pub(super) fn outside(
        &mut self,
        method: &str,
        url: &str,
        origin: &str,
        body: &[u8],
    ) -> Option<Result<OutsideAnswer, String>> {
        let fits = |entry: &Entry| {
            entry.call.split_once(' ').is_some_and(|(wanted, address)| {
                let all = address.trim_end_matches('/') == origin;
                wanted.eq_ignore_ascii_case(method) && (all || address == url)
            })
        };
        let fields: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
        let entry = self.pick(fits, fields.as_ref())?;
        Some(match &entry.error {
            Some(words) => Err(words.clone()),
            None => Ok(OutsideAnswer {
                status: entry.status.unwrap_or(200),
                headers: entry.headers.iter().flatten().map(|(name, value)| (name.clone(), plain(value))).collect(),
                body: entry.body.as_ref().map(plain).unwrap_or_default().into_bytes(),
            }),
        })
    }

    /// The calls of entries that were never used.
    pub(super) fn unused(&self) -> Vec<String> {
        self.entries.iter().filter(|(_, used)| !used).map(|(entry, _)| entry.call.clone()).collect()
    }

    fn pick(&mut self, fits: impl Fn(&Entry) -> bool, arguments: Option<&Map<String, Value>>) -> Option<&Entry> {
        let named = |entry: &Entry| entry.arguments.is_some();
        let holds = |entry: &Entry| match (&entry.arguments, arguments) {
            (Some(wanted), Some(given)) => holds_all(given, wanted),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let candidates: Vec<usize> = (0..)
            .zip(&self.entries)
            .filter(|(_, (entry, _))| fits(entry) && holds(entry))
            .map(|(index, _)| index)
            .collect();
        let at = |index: &usize| self.entries.get(*index);
        let exact = candidates.iter().any(|index| at(index).is_some_and(|(entry, _)| named(entry)));
        let candidates: Vec<usize> =
            candidates.iter().copied().filter(|index| at(index).is_some_and(|(e, _)| named(e) == exact)).collect();
        let unused = candidates.iter().find(|index| at(index).is_some_and(|(_, used)| !used));
        let chosen = *unused.or(candidates.last())?;
        let (entry, used) = self.entries.get_mut(chosen)?;
        *used = true;
        Some(entry)
    }
}

fn checked(entry: &Entry) -> Result<(), &'static str> {
    let outside = entry.call.contains(' ');
    let of_outside = entry.status.is_some() || entry.body.is_some() || entry.headers.is_some();
    if outside && entry.answer.is_some() {
        return Err("an answer from outside has `status` and `body`, not `answer`");
    }
    if !outside && of_outside {
        return Err("an answer of the CRM has `answer`; `status`, `body` and `headers` are for `METHOD https://…`");
    }
    if !outside && !entry.call.contains('.') {
        return Err("a call is written `method.action` or `METHOD https://…`");
    }
    if !outside && entry.answer.is_none() == entry.error.is_none() {
        return Err("give either `answer` or `error`");
    }
    Ok(())
}

/// Whether all that is wanted is given; a number and its text are the same.
fn holds_all(given: &Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    wanted.iter().all(|(key, wanted)| match (given.get(key), wanted) {
        (Some(Value::Object(given)), Value::Object(wanted)) => holds_all(given, wanted),
        (Some(given), wanted) => given == wanted || plain(given) == plain(wanted),
        (None, _) => false,
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn entries_are_used_in_order_and_those_that_name_arguments_first() {
        let lines = "{\"call\":\"deal.list\",\"answer\":{\"n\":1}}\n\n{\"call\":\"deal.list\",\"answer\":{\"n\":2}}\n\
                     {\"call\":\"deal.list\",\"arguments\":{\"filter\":{\"did\":\"4\"}},\"answer\":{\"n\":4}}\n\
                     {\"call\":\"task.add\",\"error\":\"gone\"}";
        let mut answers = Answers::parse(lines).unwrap();
        let mut ask = |call: &str, given: Value| answers.crm(call, &arguments(given));
        let body = |n: u8| Some(Ok(json!({ "n": n }).to_string()));
        assert_eq!(ask("deal.list", json!({ "filter": { "did": 4 }, "order": "did" })), body(4));
        assert_eq!(ask("deal.list", json!({})), body(1));
        assert_eq!(ask("deal.list", json!({ "filter": { "did": 4 } })), body(4));
        assert_eq!(ask("deal.list", json!({})), body(2));
        assert_eq!(ask("deal.list", json!({})), body(2));
        assert_eq!(ask("client.info", json!({})), None);
        assert_eq!(answers.unused(), ["task.add"]);
    }

    #[test]
    fn an_answer_from_outside_is_found_by_method_and_address_or_origin() {
        let list = json!([
            { "call": "POST https://a.example/x", "arguments": { "text": "hi" }, "status": 500 },
            { "call": "post https://a.example", "body": { "ok": true }, "headers": { "x": "1" } },
        ]);
        let mut answers = Answers::parse(&list.to_string()).unwrap();
        let mut ask = |method: &str, url: &str, body: &str| {
            answers.outside(method, url, "https://a.example", body.as_bytes()).map(Result::unwrap)
        };
        let other =
            OutsideAnswer { status: 200, headers: vec![("x".into(), "1".into())], body: br#"{"ok":true}"#.to_vec() };
        assert_eq!(ask("POST", "https://a.example/x", "{\"text\":\"hi\"}").map(|answer| answer.status), Some(500));
        assert_eq!(ask("POST", "https://a.example/x", "no JSON"), Some(other.clone()));
        assert_eq!(ask("POST", "https://a.example/y", ""), Some(other));
        assert_eq!(ask("GET", "https://a.example/y", ""), None);
    }

    #[test]
    fn a_wrong_entry_is_named() {
        for (wrong, words) in [
            ("[{\"call\":\"deal.list\"}]", "entry 1, `deal.list`: give either"),
            ("[{\"call\":\"deal.list\",\"anwser\":1}]", "anwser"),
            ("{\"call\":\"a.b\",\"answer\":1}\n{", "line 2"),
            ("[{\"call\":\"POST https://a.example\",\"answer\":1}]", "`status` and `body`"),
        ] {
            let told = Answers::parse(wrong).unwrap_err().to_string();
            assert!(told.contains(words), "{wrong}: {told}");
        }
    }
}
