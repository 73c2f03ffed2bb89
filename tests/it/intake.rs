//! What comes in: every captured request, and everything that must not.

use integration_tests::host::{Setup, TOKEN, http_client};
use integration_tests::traffic::captured;
use serde_json::{Value, json};

/// The normal form of an accepted event, without what the host adds.
async fn normal(host: &integration_tests::host::Host, answer: &Value) -> Value {
    let path = host.api(&format!("events/{}", answer["id"].as_str().unwrap())).await.unwrap();
    let event = &path["event"];
    json!({ "name": event["name"], "actor": event["actor"], "entity": event["entity"], "fields": path["fields"] })
}

#[tokio::test]
async fn every_captured_request_is_stored_as_the_same_event_in_every_shape() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let mut shapes: Vec<Vec<(String, Value)>> = Vec::new();
    for file in ["events-form", "events-get", "webhooks-json"] {
        let mut events = Vec::new();
        for request in captured(file).unwrap() {
            let body = request.body.clone().into_bytes();
            let (status, answer) =
                host.send(&request.method, request.query(), request.content_type(), body).await.unwrap();
            assert_eq!((status, &answer["status"], &answer["event"]), (202, &json!("accepted"), &json!(request.event)));
            events.push((request.trigger, normal(&host, &answer).await));
        }
        shapes.push(events);
    }
    assert_eq!(shapes[0], shapes[1]);
    assert_eq!(shapes[0], shapes[2]);
    let lines: Vec<String> = shapes[0].iter().map(|(trigger, event)| format!("{trigger}\n    {event}")).collect();
    insta::assert_snapshot!("captured_events", lines.join("\n"));
}

#[tokio::test]
async fn a_session_cookie_is_nowhere_in_what_the_host_writes() {
    let mut host = Setup::new().unwrap().more("[telemetry]\nlevel = \"trace\"").start().await.unwrap();
    let mut sent = 0;
    for file in ["events-form", "events-get"] {
        for request in captured(file).unwrap() {
            sent += usize::from(request.body.contains("SESCOOKIE") || request.path.contains("SESCOOKIE"));
            let body = request.body.clone().into_bytes();
            host.send(&request.method, request.query(), request.content_type(), body).await.unwrap();
        }
    }
    assert!(sent >= 60, "the captures hold session cookies, {sent} were sent");
    host.stop().await.unwrap();
    let mut looked = 0;
    for file in crate::files_below(&host.data()) {
        let bytes = std::fs::read(file).unwrap();
        looked += bytes.len();
        assert!(!bytes.windows(9).any(|window| window == b"SESCOOKIE"));
    }
    assert!(looked > 10_000 && !host.log().contains("SESCOOKIE") && !host.log().contains(TOKEN));
}

#[tokio::test]
async fn bad_input_gets_its_own_code_and_nothing_is_stored() {
    let mut setup = Setup::new().unwrap();
    setup.server = "max_body_kib = 512".to_owned();
    let host = setup.start().await.unwrap();
    let form = Some("application/x-www-form-urlencoded");
    let json_type = Some("application/json");
    let long = format!("event={}", "a".repeat(300));
    let deep = format!("event=a&x{}=1", "[y]".repeat(100));
    let deep_json = format!("{{\"event\":\"a\",\"x\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    let wide: String = (0..20_000).map(|n| format!("k{n}=1&")).collect();
    let large = format!("event=a&x={}", "y".repeat(600 << 10));
    let cases = [
        ("POST", "", form, "clid=1", 400, "ingress.no_event"),
        ("POST", "", form, "event=&clid=1", 400, "ingress.no_event"),
        ("POST", "", form, "", 400, "ingress.no_event"),
        ("POST", "", form, &long, 400, "ingress.bad_event"),
        ("POST", "", form, "event=a%00b", 400, "ingress.bad_event"),
        ("POST", "", form, "event=a%0Ab", 400, "ingress.bad_event"),
        ("POST", "", form, "event[x]=a", 400, "ingress.bad_event"),
        ("POST", "", form, "event=a&x=%zz", 400, "ingress.percent_encoding"),
        ("POST", "", form, "event=a&x=%ff%fe", 400, "ingress.utf8"),
        ("POST", "", form, "event=a&x[=1", 400, "ingress.brackets"),
        ("POST", "", form, "event=a&event=b", 400, "ingress.duplicate_field"),
        ("POST", "", form, &deep, 400, "ingress.too_deep"),
        ("POST", "", form, &wide, 400, "ingress.too_many_fields"),
        ("POST", "", form, &large, 413, "ingress.too_large"),
        ("POST", "", json_type, "{\"event\":\"a\"", 400, "ingress.json"),
        ("POST", "", json_type, "", 400, "ingress.json"),
        ("POST", "", json_type, "[{\"event\":\"a\"}]", 400, "ingress.not_an_object"),
        ("POST", "", json_type, "{\"event\":\"a\",\"event\":\"b\"}", 400, "ingress.duplicate_field"),
        ("POST", "", json_type, &deep_json, 400, "ingress.too_deep"),
        ("POST", "", json_type, "{\"event\":null}", 400, "ingress.no_event"),
        ("POST", "", Some("text/plain"), "event=a", 415, "ingress.content_type"),
        ("POST", "", Some("application/json; charset=windows-1251"), "{}", 415, "ingress.content_type"),
        ("POST", "", None, "event=a", 415, "ingress.content_type"),
        ("GET", "event=a", form, "event=b", 400, "ingress.body_on_get"),
        ("GET", "", None, "", 400, "ingress.no_event"),
        ("PUT", "event=a", form, "event=a", 405, "ingress.method"),
    ];
    for (method, query, content_type, body, status, code) in cases {
        let (found, answer) = host.send(method, query, content_type, body.as_bytes().to_vec()).await.unwrap();
        let shown: String = body.chars().take(40).collect();
        assert_eq!((found, answer["code"].as_str()), (status, Some(code)), "{method} {shown}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| message.len() > 20), "{answer}");
    }
    assert_eq!(host.api("events").await.unwrap(), json!({ "items": [], "next": null }));
}

#[tokio::test]
async fn only_a_known_token_opens_the_door() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let client = http_client().unwrap();
    let post = async |path: &str, header: Option<String>| {
        let mut request = client
            .post(format!("{}{path}", host.base()))
            .header("content-type", "application/json")
            .body("{\"event\":\"a.b\"}");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post("/events/wrong-token-0123456789", None).await, 401);
    assert_eq!(post(&format!("/events/{TOKEN}x"), None).await, 401);
    assert_eq!(post("/events", None).await, 401);
    assert_eq!(post("/events", Some("Bearer wrong".to_owned())).await, 401);
    assert_eq!(post("/events", Some(format!("Basic {TOKEN}"))).await, 401);
    assert_eq!(post("/events", Some(format!("Bearer {TOKEN}"))).await, 202);
    assert_eq!(post(&format!("/events/{TOKEN}"), None).await, 202);
    assert!(!host.log().contains(TOKEN));
}

#[tokio::test]
async fn an_import_of_five_thousand_rows_is_not_lost() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let ids: String =
        (0..5_000).map(|n| format!("clids%5B{n}%5D={}&pids%5B{n}%5D={}&", 100_000 + n, 200_000 + n)).collect();
    let id = host.accepted(&format!("{ids}autor=1&event=client.import&identity=1&iduser1=1")).await.unwrap();
    let fields = &host.api(&format!("events/{id}")).await.unwrap()["fields"];
    assert_eq!(fields["clids"].as_array().map(Vec::len), Some(5_000));
    assert_eq!(fields["pids"][4_999], "204999");
}
