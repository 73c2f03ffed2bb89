//! A message to a chat when a deal is closed, an invoice is paid, a lead arrives.

use std::collections::BTreeMap;
use std::time::Duration;

use salesman_plugin_sdk::{Event, Host, Plugin, Reply, Result};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Settings {
    url: String,
    #[serde(default)]
    chat_id: String,
    texts: BTreeMap<String, String>,
}

struct Notify;

impl Plugin for Notify {
    fn handle(&self, event: Event, host: &Host) -> Result<Reply> {
        let settings: Settings = host.settings()?;
        let Some(template) = settings.texts.get(&event.name).filter(|text| !text.is_empty()) else {
            return Reply::skip_because("there is no text for this event");
        };
        if settings.url.is_empty() {
            return Reply::reject("the setting `url` is empty: set the address of the chat's webhook");
        }
        let text = filled(template, &event, host)?;
        let message = match settings.chat_id.as_str() {
            "" => json!({ "text": text }),
            chat_id => json!({ "chat_id": chat_id, "text": text }),
        };
        let answer = host.http().post_json(&settings.url, &message)?;
        match answer.status {
            200..300 => Reply::done(),
            429 => Reply::retry_after(Duration::from_secs(30), "the chat asks to wait"),
            500.. => Reply::retry(format!("the chat answered {}", answer.status)),
            status => Reply::reject(format!(
                "the chat answered {status}: {}",
                answer.text().chars().take(200).collect::<String>()
            )),
        }
    }
}

/// The text with the event's fields in their places. The deal's title is only read where it is wanted.
fn filled(template: &str, event: &Event, host: &Host) -> Result<String> {
    let mut text = template.to_owned();
    if text.contains("{title}") {
        let deal = match event.number("did") {
            Some(did) => host.crm().deal(did)?,
            None => None,
        };
        let title = deal.as_ref().and_then(|deal| deal.get("title")).and_then(Value::as_str);
        text = text.replace("{title}", title.unwrap_or("без названия"));
    }
    for (name, value) in &event.fields {
        if let Value::String(value) = value {
            text = text.replace(&format!("{{{name}}}"), value);
        }
    }
    Ok(text)
}

salesman_plugin_sdk::export!(Notify);

#[cfg(test)]
mod tests {
    use salesman_plugin_sdk::testing::{FakeHost, event};

    use super::*;

    fn host(status: u16) -> FakeHost {
        FakeHost::new()
            .with_settings(json!({ "url": "https://chat.example.com/hooks/1", "chat_id": "",
                "texts": { "deal.close": "«{title}»: {status}, {summa}", "lead.add": "" } }))
            .answer("deal.list", json!({ "data": [{ "did": 4, "title": "Поставка" }] }))
            .respond(status, "ok")
    }

    fn closed() -> Event {
        event("deal.close", &[("did", "4"), ("status", "Победа полная"), ("summa", "5000")])
    }

    #[test]
    fn the_message_holds_the_deals_title_and_the_events_fields() {
        let fake = host(200);
        assert_eq!(Notify.handle(closed(), &fake.host()), Reply::done());
        let sent: Vec<_> =
            fake.requests().into_iter().map(|request| String::from_utf8(request.body).unwrap()).collect();
        assert_eq!(sent, [r#"{"text":"«Поставка»: Победа полная, 5000"}"#]);
    }

    #[test]
    fn a_chat_that_is_down_is_tried_again_and_a_wrong_address_is_not() {
        for (status, again) in [(500, true), (503, true), (429, true), (404, false), (400, false)] {
            let reply = Notify.handle(closed(), &host(status).host());
            assert_eq!(matches!(reply, Ok(Reply::Retry { .. })), again, "{status}");
            assert_eq!(matches!(reply, Ok(Reply::Reject { .. })), !again, "{status}");
        }
    }

    #[test]
    fn an_event_without_a_text_sends_nothing() {
        let fake = host(200);
        assert!(matches!(Notify.handle(event("lead.add", &[("id", "1")]), &fake.host()), Ok(Reply::Skip { .. })));
        assert_eq!(fake.requests(), []);
    }
}
