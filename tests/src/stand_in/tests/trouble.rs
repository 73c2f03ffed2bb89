//! Scripted faults: what the caller sees and what is stored nevertheless.

use serde_json::json;

use super::{at, form, is_fatal, start};
use crate::stand_in::{Fault, Message, http};

const ADD: [(&str, &str); 2] = [("action", "add"), ("title", "Ромашка")];

#[tokio::test]
async fn faults_before_the_write_store_nothing() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.fault(Fault::HtmlFatal);
    assert!(is_fatal(&form(&stand_in, "client", &ADD).await?));
    stand_in.fault(Fault::Down);
    assert!(form(&stand_in, "client", &ADD).await.is_err());
    stand_in.fault(Fault::Status500);
    assert!(form(&stand_in, "client", &ADD).await.is_err_and(|error| error.to_string() == "status 500"));
    assert!(stand_in.client(1).is_none());
    assert_eq!(stand_in.calls().len(), 3);
    assert_eq!(form(&stand_in, "client", &ADD).await?, r#"{"result":"Успешно","data":1}"#);
    Ok(())
}

#[tokio::test]
async fn faults_after_the_write_leave_the_record_behind() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let faults = [Fault::HtmlAfterWrite, Fault::JsonThenHtml, Fault::CloseAfterWrite, Fault::InvalidJson];
    for (index, fault) in faults.into_iter().enumerate() {
        stand_in.fault_on(Some("person"), Some("add"), 1, fault);
        let body = form(&stand_in, "person", &[("action", "add"), ("person", "Петров")]).await.unwrap_or_default();
        assert!(serde_json::from_str::<serde_json::Value>(&body).is_err(), "{fault:?}: {body}");
        assert_eq!(stand_in.events().len(), index + 1, "{fault:?}");
    }
    assert!(stand_in.person(4).is_some());
    Ok(())
}

#[tokio::test]
async fn a_rule_hits_only_its_own_calls_as_often_as_asked() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.fault_on(Some("client"), Some("list"), 2, Fault::HtmlFatal);
    assert!(!is_fatal(&form(&stand_in, "client", &ADD).await?));
    let list = [("action", "list"), ("fields", "clid")];
    assert!(is_fatal(&form(&stand_in, "client", &list).await?));
    assert!(is_fatal(&form(&stand_in, "client", &list).await?));
    assert_eq!(form(&stand_in, "client", &list).await?, r#"{"data":[{"clid":1}],"count":1}"#);
    Ok(())
}

#[tokio::test]
async fn a_hanging_call_ends_with_the_caller_and_frees_its_worker() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.fault_on(None, None, 8, Fault::Hang);
    for _ in 0..8 {
        let hanging = form(&stand_in, "client", &ADD);
        let heard = async {
            let before = stand_in.calls().len();
            while stand_in.calls().len() == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answered = hanging => anyhow::bail!("an answer came: {answered:?}"),
            () = heard => {}
        }
    }
    assert_eq!(at(&form(&stand_in, "client", &ADD).await?, "/data")?, 1);
    Ok(())
}

#[tokio::test]
async fn a_stopped_crm_answers_nobody_until_it_is_back() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.set_down(true);
    assert!(form(&stand_in, "client", &ADD).await.is_err());
    assert!(stand_in.calls().is_empty());
    stand_in.set_down(false);
    assert!(form(&stand_in, "client", &ADD).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn calls_are_remembered_without_the_key() -> anyhow::Result<()> {
    let stand_in = start().await?;
    form(&stand_in, "client", &[("action", "list"), ("filter[clid]", "1"), ("a.b", "c")]).await?;
    let call = stand_in.calls().pop();
    let call = call.ok_or_else(|| anyhow::anyhow!("no call"))?;
    assert_eq!(
        (call.method.as_str(), call.action.as_str(), call.login.as_str()),
        ("client", "list", "api@example.test")
    );
    assert_eq!(serde_json::Value::from(call.params.clone()), json!({ "filter": { "clid": "1" }, "a_b": "c" }));
    assert!(!format!("{call:?}").contains(stand_in.api_key()));
    Ok(())
}

#[tokio::test]
async fn the_chat_keeps_messages_and_fails_on_its_own() -> anyhow::Result<()> {
    let stand_in = start().await?;
    let port = stand_in.address().port();
    let send = async |path: &str| {
        let body = r#"{"text":"Привет"}"#;
        let request = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        http::exchange(("127.0.0.1", port), &request).await
    };
    assert_eq!(send("/chat").await?.body, r#"{"ok":true}"#);
    assert_eq!(send("/bot1:abc/sendMessage").await?.body, r#"{"ok":true,"result":{"message_id":2}}"#);
    stand_in.fault(Fault::Down);
    stand_in.fault_on(Some("chat"), None, 1, Fault::Status500);
    assert_eq!(send("/chat").await?.status, 500);
    let bodies: Vec<serde_json::Value> = stand_in.messages().into_iter().map(|message: Message| message.body).collect();
    assert_eq!(bodies, [json!({ "text": "Привет" }), json!({ "text": "Привет" })]);
    Ok(())
}
