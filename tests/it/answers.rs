//! Every captured answer of the CRM against a table of what it means, which was made by reading the answers.

use integration_tests::traffic::fixtures;
use salesman_host::crm::{Error, answer};
use serde_json::Value;

#[test]
fn no_captured_answer_is_taken_for_what_it_is_not() {
    let captured = std::fs::read_to_string(fixtures().join("api-v2.jsonl")).unwrap();
    let expected = std::fs::read_to_string(fixtures().join("api-v2.expected.tsv")).unwrap();
    let mut rows = expected.lines().skip(1);
    let mut wrong = Vec::new();
    let mut count = 0;
    for (line, call) in (1..).zip(captured.lines()) {
        let call: Value = serde_json::from_str(call).unwrap();
        let row: Vec<&str> = rows.next().unwrap().split('\t').collect();
        let [number, method, action, class, code, detail] = row[..] else { panic!("{row:?}") };
        assert_eq!(number, line.to_string());
        assert_eq!(method, call["method"].as_str().unwrap());
        assert_eq!(action, call["action"].as_str().unwrap_or("-"));
        let found = judged(call["body"].as_str().unwrap().as_bytes());
        // What is wrong with a body that is not an answer is told in the host's own words.
        let expected = if class.starts_with("bad-") { "bad".to_owned() } else { format!("{class} {code} {detail}") };
        if found != expected {
            wrong.push(format!("line {line}: expected `{expected}`, found `{found}`"));
        }
        count += 1;
    }
    assert_eq!(rows.next(), None);
    assert_eq!((count, wrong), (338, Vec::<String>::new()));
}

/// An answer in the table's words.
fn judged(body: &[u8]) -> String {
    match answer::classify(body) {
        Err(Error::Refused { code, text }) => format!("refused {} {text}", code.unwrap_or("-".to_owned())),
        Err(_) => "bad".to_owned(),
        Ok(body) => {
            let result = body.get("result").and_then(Value::as_str).unwrap_or("-");
            let code = body.pointer("/error/code").map(Value::to_string);
            match (&body, code) {
                (Value::Array(items), _) => {
                    let refused =
                        items.iter().filter(|item| item.pointer("/error/text").is_some_and(|text| text != "")).count();
                    format!("success - items:{} ok, {refused} refused", items.len() - refused)
                }
                (_, Some(code)) => format!("unchanged {code} {result}"),
                (_, None) => format!("success - {result}"),
            }
        }
    }
}
