//! What listeners are told, how it looks on the wire, and who waits.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{form, start};
use crate::stand_in::{Event, Hook, Options, Shape, StandIn};

/// What a listener would get for each event so far.
fn sent(stand_in: &StandIn) -> Vec<String> {
    stand_in.hooks().into_iter().map(|delivered| delivered.sent).collect()
}

/// A stand-in whose events go to its own chat.
async fn listening(shape: Shape) -> anyhow::Result<StandIn> {
    let stand_in = start().await?;
    stand_in.set_hooks(vec![Hook::new("{HOME}/chat", shape)]);
    Ok(stand_in)
}

#[tokio::test]
async fn a_write_through_the_api_tells_everybody_before_it_answers() -> anyhow::Result<()> {
    let stand_in = listening(Shape::Form).await?;
    form(&stand_in, "client", &[("action", "add"), ("title", "Ромашка")]).await?;
    let update = [("action", "update"), ("clid", "1"), ("address", "Москва, 1")];
    form(&stand_in, "client", &update).await?;
    form(&stand_in, "client", &update).await?;
    form(&stand_in, "client", &[("action", "update"), ("clid", "1"), ("iduser", "2")]).await?;
    let expected = [
        "clid=1&autor=1&user=1&event=client.add&identity=1&iduser1=1",
        "clid=1&autor=1&user=0&newparam%5Baddress%5D=%D0%9C%D0%BE%D1%81%D0%BA%D0%B2%D0%B0%2C+1&event=client.edit&identity=1&iduser1=1",
        "clid=1&autor=1&user=2&newparam%5Biduser%5D=2&event=client.edit&identity=1&iduser1=1",
    ];
    assert_eq!(sent(&stand_in), expected);
    assert_eq!(stand_in.messages().len(), expected.len());
    Ok(())
}

#[tokio::test]
async fn authors_in_events_are_not_the_caller() -> anyhow::Result<()> {
    let stand_in = listening(Shape::Form).await?;
    stand_in.seed_client(json!({ "title": "Ромашка", "iduser": 2, "phone": "84951110000" }))?;
    stand_in.seed_deal(
        json!({ "clid": 1, "title": "Поставка", "step": "20", "iduser": 2, "speka": [{ "kol": 1, "price": 5000 }] }),
    )?;
    stand_in.seed_task(json!({ "title": "Позвонить" }))?;
    form(&stand_in, "task", &[("action", "update"), ("id", "1")]).await?;
    form(&stand_in, "deal", &[("action", "invoice.add"), ("did", "1"), ("summa", "1000")]).await?;
    form(&stand_in, "deal", &[("action", "invoice.do"), ("id", "1"), ("summa", "400")]).await?;
    form(&stand_in, "lead", &[("action", "add"), ("phone", "84951110000")]).await?;
    form(&stand_in, "lead", &[("action", "add"), ("phone", "1")]).await?;
    form(&stand_in, "person", &[("action", "delete"), ("pid", "99")]).await?;
    form(&stand_in, "deal", &[("action", "change.step"), ("did", "1"), ("step", "77"), ("description", "x")]).await?;
    let close = [("action", "change.close"), ("did", "1"), ("sid", "1"), ("kol_fact", "5000.00")];
    form(&stand_in, "deal", &close).await?;
    let expected = [
        "id=1&autor=0&event=task.edit&identity=1&iduser1=1",
        "did=1&autor=2&user=2&userUID=UID-UI-2&id=1&summa=1000&invoice=3&event=invoice.add&identity=1&iduser1=1",
        "id=1&did=1&autor=1&userUID=UID-UI-2&invoice=3&summa=400&summaNew=600&event=invoice.doit&identity=1&iduser1=1",
        "id=1&clid=1&pid=0&did=0&iduser=2&event=lead.setuser&identity=1&iduser1=1",
        "id=2&clid=0&pid=0&did=0&iduser=1&event=lead.add&identity=1&iduser1=1",
        "pid=99&autor=1&event=person.delete&identity=1&iduser1=1",
        "did=1&autor=1&stepOld=20&reason=x&comment=x&event=deal.change.step&identity=1&iduser1=1",
        "did=1&autor=1&summa=5000&status=%D0%9F%D0%BE%D0%B1%D0%B5%D0%B4%D0%B0+%D0%BF%D0%BE%D0%BB%D0%BD%D0%B0%D1%8F&identity=1&event=deal.close&iduser1=1",
    ];
    assert_eq!(sent(&stand_in), expected);
    Ok(())
}

#[tokio::test]
async fn a_page_save_carries_the_cookie_and_a_webhook_never_does() -> anyhow::Result<()> {
    let stand_in = listening(Shape::Query).await?;
    stand_in.seed_client(json!({ "title": "Ромашка", "iduser": 4 }))?;
    stand_in.ui_edit_client(1, json!({ "address": "Самара" }), 2).await?;
    let cookie = stand_in.session_cookie();
    let form = format!(
        "clid=1&autor=2&user=4&newparam%5Baddress%5D=%D0%A1%D0%B0%D0%BC%D0%B0%D1%80%D0%B0&event=client.edit&identity=1&iduser1=2&ses={cookie}"
    );
    assert_eq!(sent(&stand_in), [form]);
    stand_in.forget();
    stand_in.set_hooks(vec![Hook::new("{HOME}/chat", Shape::Webhook).only("client.edit")]);
    stand_in.ui_edit_client(1, json!({ "address": "а/б" }), 2).await?;
    stand_in.ui_add_client(json!({ "title": "Другой" }), 2).await?;
    let webhook = r#"{"clid":"1","autor":"2","user":"4","newparam":{"address":"\u0430\/\u0431"},"event":"client.edit","identity":"1","iduser1":"2"}"#;
    assert_eq!(sent(&stand_in), [webhook]);
    Ok(())
}

#[tokio::test]
async fn headers_arrive_in_the_order_of_the_real_program() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let host = listener.local_addr()?;
    let stand_in = start().await?;
    let cases = [
        (Shape::Form, format!("POST /h?a=b HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nContent-Length: ")),
        (Shape::Query, "GET /h?a=b&id=1&event=x&identity=1&iduser1=2&ses=".to_owned()),
        (Shape::Webhook, format!("POST /h?a=b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: ")),
    ];
    for (shape, expected) in cases {
        stand_in.set_hooks(vec![Hook::new(format!("http://{host}/h?a=b"), shape)]);
        let receive = async {
            let (mut stream, _) = listener.accept().await?;
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await?;
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            buffer.truncate(length);
            anyhow::Ok(String::from_utf8(buffer)?)
        };
        let (request, ()) = tokio::join!(receive, stand_in.fire("x", json!({ "id": 1, "gone": null, "none": [] }), 2));
        let request = request?;
        assert!(request.starts_with(&expected), "{request}");
    }
    assert!(stand_in.hooks().iter().all(|delivered| delivered.status == Some(204)));
    Ok(())
}

#[tokio::test]
async fn a_thousand_ids_lose_the_webhook_but_not_the_direct_event() -> anyhow::Result<()> {
    let stand_in = start().await?;
    stand_in.set_hooks(vec![Hook::new("{HOME}/chat", Shape::Webhook), Hook::new("{HOME}/chat", Shape::Form)]);
    let import = |count: usize| json!({ "clids": (1..=count).collect::<Vec<_>>(), "autor": 1, "identity": 1 });
    stand_in.fire("client.import", import(990), 1).await;
    stand_in.fire("client.import", import(1000), 1).await;
    let shapes: Vec<Shape> = stand_in.hooks().into_iter().map(|delivered| delivered.shape).collect();
    assert_eq!(shapes, [Shape::Form, Shape::Webhook, Shape::Form]);
    Ok(())
}

#[tokio::test]
async fn a_dead_listener_is_not_shown_to_the_user() -> anyhow::Result<()> {
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let stand_in = start().await?;
    let shapes = [Shape::Form, Shape::Query, Shape::Webhook];
    stand_in.set_hooks(shapes.map(|shape| Hook::new(format!("http://{closed}/x"), shape)).into());
    let answer = form(&stand_in, "client", &[("action", "add"), ("title", "Ромашка")]).await?;
    assert_eq!(answer, r#"{"result":"Успешно","data":1}"#);
    assert!(stand_in.hooks().iter().all(|delivered| delivered.status.is_none() && delivered.error.is_some()));
    let names: Vec<String> = stand_in.events().into_iter().map(|event: Event| event.name).collect();
    assert_eq!(names, ["client.add"]);
    Ok(())
}

#[tokio::test]
async fn the_only_worker_waits_for_itself_and_delivers_afterwards() -> anyhow::Result<()> {
    let patience = Duration::from_millis(40);
    let stand_in = StandIn::start(Options { workers: 1, patience, ..Options::default() }).await?;
    stand_in.set_hooks(vec![Hook::new("http://127.0.0.1:1/x", Shape::Webhook)]);
    let before = Instant::now();
    stand_in.fire("client.edit", json!({ "clid": 1 }), 2).await;
    assert!(before.elapsed() >= patience);
    assert!(stand_in.hooks().is_empty());
    while stand_in.hooks().is_empty() {
        tokio::task::yield_now().await;
    }
    Ok(())
}
