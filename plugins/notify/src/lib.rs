//! A message to a chat when a deal is closed, an invoice is paid, a lead arrives.

use std::collections::BTreeMap;
use std::time::Duration;

use salesman_plugin_sdk::{Event, Host, Plugin, Reply, Result};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Settings {
    url: String,
    /// Telegram's: a number, or `@name` as text.
    #[serde(default)]
    chat_id: Value,
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
        let message = match &settings.chat_id {
            Value::Null => json!({ "text": text }),
            Value::String(none) if none.is_empty() => json!({ "text": text }),
            chat_id @ (Value::String(_) | Value::Number(_)) => json!({ "chat_id": chat_id, "text": text }),
            _ => return Reply::reject("the setting `chat_id` must be a number or a text"),
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

/// The text with the event's fields in their places, put in once: what a record says is never read as a template. The deal's
/// title is only read where it is wanted.
fn filled(template: &str, event: &Event, host: &Host) -> Result<String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let value = match after.split_once('}') {
            Some((name, _)) => value(name, event, host)?,
            None => None,
        };
        // What names no field stays as it is written.
        rest = match value.zip(after.split_once('}')) {
            Some((value, (_, after))) => {
                text.push_str(&harmless(&value));
                after
            }
            None => {
                text.push('{');
                after
            }
        };
    }
    Ok(text + rest)
}

fn value(name: &str, event: &Event, host: &Host) -> Result<Option<String>> {
    if name == "title" {
        let deal = match event.number("did") {
            Some(did) => host.crm().deal(did)?,
            None => None,
        };
        let title = deal.as_ref().and_then(|deal| deal.get("title")).and_then(Value::as_str);
        return Ok(Some(title.unwrap_or("без названия").to_owned()));
    }
    Ok(event.fields.get(name).and_then(Value::as_str).map(str::to_owned))
}

/// What a record says, such that no chat takes it for a mention (`@all`, `<!channel>`, `<@U1>`), a link with another address
/// than it shows, or formatting. It reads the same: the signs are those of other alphabets, or have nothing visible behind them.
fn harmless(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '@' | '＠' => text.push_str("@\u{2060}"),
            '#' => text.push_str("#\u{2060}"),
            '<' => text.push('‹'),
            '>' => text.push('›'),
            '&' => text.push('＆'),
            '[' => text.push('［'),
            ']' => text.push('］'),
            '`' => text.push('ʼ'),
            '*' => text.push('∗'),
            '_' => text.push_str("_\u{2060}"),
            '~' => text.push('∼'),
            // One line, which nothing turns around.
            _ if character.is_control() || is_invisible(character) => text.push(' '),
            _ => text.push(character),
        }
    }
    text
}

/// Signs that turn the writing around or take no room.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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

    /// The text that is sent for a record that says this.
    fn text_of(template: &str, status: &str) -> String {
        let fake = FakeHost::new()
            .with_settings(json!({ "url": "https://chat.example.com/hooks/1", "texts": { "deal.close": template } }))
            .respond(200, "ok");
        let event = event("deal.close", &[("status", status), ("summa", "5000")]);
        assert_eq!(Notify.handle(event, &fake.host()), Reply::done());
        let body: Value = serde_json::from_slice(&fake.requests()[0].body).unwrap();
        body["text"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_a_record_says_calls_nobody_and_is_no_link() {
        for said in [
            "@all",
            "@here",
            "@channel",
            "@everyone",
            "ромашка @ivan",
            "<!channel>",
            "<!here|here>",
            "<!everyone>",
            "<@U12345>",
            "<#C12345>",
            "<!subteam^S1>",
            "[bank](https://evil.example)",
            "<https://evil.example|bank>",
            "＠all",
            "a&lt;!channel&gt;",
            "`@all`",
            "@\u{200b}all",
            "*b* _i_ ~s~",
        ] {
            let text = text_of("{status}", said);
            let bare = |sign: char| text.split(sign).skip(1).any(|after| !after.starts_with('\u{2060}'));
            for sign in ['@', '＠', '#', '_'] {
                assert!(!bare(sign), "{said}: {text}");
            }
            assert!(!text.contains(['<', '>', '[', ']', '&', '`', '*', '~']), "{said}: {text}");
        }
        assert_eq!(text_of("@all: {status}", "да"), "@all: да", "the administrator's own text may call");
    }

    #[test]
    fn what_a_record_says_is_never_read_as_a_template() {
        let cases = [
            ("{status} {summa}", "{summa}", "{summa} 5000"),
            ("{summa} {status}", "{summa}{status}{title}", "5000 {summa}{status}{title}"),
            ("{status}", "{", "{"),
            ("{status", "x", "{status"),
            ("{nothing} {{summa}} }{", "x", "{nothing} {5000} }{"),
            ("{status}", "a\nb\u{202e}c", "a b c"),
        ];
        for (template, status, expected) in cases {
            assert_eq!(text_of(template, status), expected, "{template} {status}");
        }
    }

    #[test]
    fn a_chats_number_may_be_a_number() {
        for (chat_id, expected) in [
            (json!(-1001234567890_i64), "-1001234567890"),
            (json!("@sales"), "\"@sales\""),
            (json!("-100"), "\"-100\""),
        ] {
            let fake = FakeHost::new()
                .with_settings(
                    json!({ "url": "https://chat.example.com/x", "chat_id": chat_id, "texts": { "lead.add": "{id}" } }),
                )
                .respond(200, "ok");
            assert_eq!(Notify.handle(event("lead.add", &[("id", "1")]), &fake.host()), Reply::done());
            let body: Value = serde_json::from_slice(&fake.requests()[0].body).unwrap();
            assert_eq!(body["chat_id"].to_string(), expected);
        }
    }
}
