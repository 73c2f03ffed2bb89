//! Each way in which senders write one event: understood as the same event, or refused with the place.

use std::io::{Read, Write};
use std::net::TcpStream;

use integration_tests::host::{Host, Setup, TOKEN, http_client};
use serde_json::{Value, json};

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// One request as its sender writes it; returns status, header lines and body.
fn raw(host: &Host, head: &str, body: &[u8]) -> (u16, String, Value) {
    let address = host.base().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(integration_tests::host::PATIENCE)).unwrap();
    let head = head.trim().replace('\n', "\r\n");
    let length = format!("\r\nHost: crm\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), length.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn fields(host: &Host, answer: &Value) -> Value {
    host.api(&format!("events/{}", answer["id"].as_str().unwrap())).await.unwrap()["fields"].clone()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn one_event_is_the_same_in_every_shape_charset_and_packing() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let form = "event=client.edit&clid=5&newparam%5Btitle%5D=%D0%AB&clids%5B0%5D=7";
    let json = r#"{"event":"client.edit","clid":5,"newparam":{"title":"Ы"},"clids":["7"]}"#;
    let part =
        |name: &str, value: &str| format!("--b0\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let parts = [("event", "client.edit"), ("clid", "5"), ("newparam[title]", "Ы"), ("clids[0]", "7")];
    let parts = parts.iter().map(|(name, value)| part(name, value)).collect::<String>() + "--b0--\r\n";
    let marked = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let line = |kind: &str| format!("POST /events/{TOKEN} HTTP/1.1\nContent-Type: {kind}");
    let packed = |kind: &str| format!("{}\nContent-Encoding: gzip", line(kind));
    let multipart = "multipart/form-data; boundary=b0";
    let cases: [(String, Vec<u8>); 13] = [
        (line(FORM), form.into()),
        (line(JSON), json.into()),
        (line(multipart), parts.clone().into()),
        (line(&format!("{FORM}; charset=UTF8")), marked(&format!("{form}\r\n"))),
        (line("Application/JSON;charset=\"utf8\""), marked(&json.replace(',', ",\r\n"))),
        (line(&format!("{JSON}; charset=us-ascii")), marked(json)),
        (packed(FORM), gzip(form.as_bytes())),
        (packed(JSON), gzip(&marked(json))),
        (packed(multipart), gzip(parts.as_bytes())),
        (format!("GET /events/{TOKEN}?{form} HTTP/1.1"), Vec::new()),
        (format!("POST /events/{TOKEN}?{form} HTTP/1.1"), Vec::new()),
        (format!("POST /events/{TOKEN}?event=client.edit HTTP/1.1\nContent-Type: {FORM}"), form[18..].into()),
        (
            format!(
                "POST /events?event=no.such&token={TOKEN}&access_token=x HTTP/1.0\nAuthorization: Bearer {TOKEN}\nContent-Type: {JSON}"
            ),
            json.into(),
        ),
    ];
    for (head, body) in &cases {
        let (status, _, answer) = raw(&host, head, body);
        assert_eq!((status, &answer["event"]), (202, &json!("client.edit")), "{head}: {answer}");
        let expected = json!({ "clid": "5", "newparam": { "title": "Ы" }, "clids": ["7"] });
        assert_eq!(fields(&host, &answer).await, expected, "{head}");
    }
}

#[tokio::test]
async fn what_can_not_be_understood_whole_is_refused_with_its_place() {
    let mut setup = Setup::new().unwrap();
    setup.server = "max_body_kib = 64".to_owned();
    let host = setup.start().await.unwrap();
    let post = |kind: &str| format!("POST /events/{TOKEN} HTTP/1.1\nContent-Type: {kind}");
    let packed = |name: &str| format!("{}\nContent-Encoding: {name}", post(FORM));
    let event = b"event=client.edit";
    let bomb = gzip(&vec![b'a'; 200 << 20]);
    let whole = gzip(event);
    let file = "--b\r\nContent-Disposition: form-data; name=\"up\"; filename=\"x.php\"\r\n\r\n<?php\r\n--b--";
    let multipart = post("multipart/form-data; boundary=b");
    let cases: [(String, &[u8], u16, &str, &str); 18] = [
        (post(JSON), "{\"event\":\u{200b}\"a.b\"}".as_bytes(), 400, "ingress.json", "U+200B (line 1, character 10)"),
        (post(JSON), "{\"event\":\"a.b\",\"di\u{200d}d\":1}".as_bytes(), 400, "ingress.invisible", "U+200D"),
        (post(JSON), "{\"event\":\"a.b\",\"did\":\"1\u{200d}2\"}".as_bytes(), 400, "ingress.invisible", "`did`"),
        (post(JSON), "{\"event\":\"a.\u{200b}b\"}".as_bytes(), 400, "ingress.bad_event", "name"),
        (post(JSON), b"{\"event\":\"\xe0\"}", 400, "ingress.utf8", "byte 11"),
        (post(FORM), b"event=a.b&c%E2%80%8Blid=1", 400, "ingress.invisible", "U+200B"),
        (post("application/json; charset = windows-1251"), b"{}", 415, "ingress.content_type", "UTF-8"),
        (post("application/json; charset=utf-16"), b"{}", 415, "ingress.content_type", "UTF-8"),
        (packed("br"), event, 415, "ingress.content_encoding", "gzip"),
        (packed("gzip, gzip"), event, 415, "ingress.content_encoding", "gzip"),
        (packed("gzip"), event, 400, "ingress.packed", "damaged"),
        (packed("gzip"), &whole[..whole.len() - 4], 400, "ingress.packed", "damaged"),
        (packed("gzip"), &bomb[..bomb.len().min(60 << 10)], 413, "ingress.too_large", "65536"),
        (packed("deflate"), b"\x78\x9c", 400, "ingress.packed", "damaged"),
        (multipart.clone(), file.as_bytes(), 400, "ingress.file", "`up`"),
        (
            multipart,
            b"--b\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\na.b",
            400,
            "ingress.multipart",
            "multipart",
        ),
        (post("multipart/form-data"), b"", 400, "ingress.multipart", "boundary"),
        (format!("POST /events/{TOKEN}/more HTTP/1.1\nContent-Type: {FORM}"), event, 404, "ingress.path", "/events/"),
    ];
    for (head, body, status, code, words) in cases {
        let (found, own, answer) = raw(&host, &head, body);
        assert_eq!((found, answer["code"].as_str()), (status, Some(code)), "{head}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| message.contains(words)), "{head}: {answer}");
        assert!(own.contains("x-salesman-host: 1"), "{own}");
    }
    assert_eq!(host.api("events").await.unwrap()["items"], json!([]));
}

#[tokio::test]
async fn slashes_that_proxies_and_people_add_change_nothing_and_lead_nowhere_else() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let encoded: String = TOKEN.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for path in ["/events", "/events/", "//events", "//events//", "/events//"] {
        let head = format!("POST {path} HTTP/1.1\nContent-Type: {FORM}\nAuthorization: Bearer {TOKEN}");
        let (status, own, answer) = raw(&host, &head, b"event=a.b");
        assert_eq!(status, 202, "{path}: {answer}");
        assert!(own.contains("x-salesman-host: 1"), "{own}");
    }
    for path in [
        format!("/events/{TOKEN}"),
        format!("/events/{TOKEN}/"),
        format!("//events//{TOKEN}//"),
        format!("/events/{encoded}"),
        format!("http://crm/events/{TOKEN}/"),
    ] {
        let (status, _, answer) = raw(&host, &format!("POST {path} HTTP/1.1\nContent-Type: {FORM}"), b"event=a.b");
        assert_eq!(status, 202, "{path}: {answer}");
    }
    for (path, status) in
        [("/events/", 401), ("/events/%ff", 401), ("/event", 404), ("/nothing", 404), ("//readyz", 404)]
    {
        assert_eq!(
            raw(&host, &format!("POST {path} HTTP/1.1\nContent-Type: {FORM}"), b"event=a.b").0,
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn numbers_keep_their_digits_and_records_are_known_by_theirs() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let body = r#"{"event":"deal.edit","did":9007199254740993,"iduser1":18446744073709551615,"sum":1.10,"inn":123456789012345678901234567890,"far":1e400}"#;
    let (status, answer) = host.send("POST", "", Some(JSON), body.into()).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    let path = host.api(&format!("events/{}", answer["id"].as_str().unwrap())).await.unwrap();
    let expected = json!({
        "did": "9007199254740993", "iduser1": "18446744073709551615", "sum": "1.10",
        "inn": "123456789012345678901234567890", "far": "1e400"
    });
    assert_eq!((&path["fields"], &path["event"]["actor"]), (&expected, &Value::Null), "{path}");
    let made = r#"{"account":"main","event":"deal.edit","fields":{"did":9007199254740993,"sum":1.10,"far":1e400,"inn":123456789012345678901234567890}}"#;
    let request = http_client().unwrap().post(format!("{}/api/v1/events", host.base())).header("content-type", JSON);
    let request = request.bearer_auth(host.token().unwrap());
    let answer: Value = serde_json::from_str(&request.body(made).send().await.unwrap().text().await.unwrap()).unwrap();
    let expected =
        json!({ "did": "9007199254740993", "sum": "1.10", "far": "1e400", "inn": "123456789012345678901234567890" });
    assert_eq!(fields(&host, &answer).await, expected, "made by hand");
    for did in ["\" 7\\r\\n\"", "\"7\u{200b}\"", "7.0", "7"] {
        let body = format!("{{\"event\":\"deal.edit\",\"did\":{did},\"iduser1\":\"\u{feff}3\"}}");
        let (_, answer) = host.send("POST", "", Some(JSON), body.into()).await.unwrap();
        let path = host.api(&format!("events/{}", answer["id"].as_str().unwrap())).await.unwrap();
        assert_eq!((&path["event"]["entity"], &path["event"]["actor"]), (&json!("deal:7"), &json!(3)), "{did}");
    }
}

#[tokio::test]
async fn a_key_names_one_event_for_ever_and_another_under_it_is_refused_and_logged() {
    let mut host = Setup::new().unwrap().start().await.unwrap();
    let client = http_client().unwrap();
    let send = async |host: &Host, kind: &str, body: &str| {
        let request = client.post(host.hook()).header("content-type", kind).header("idempotency-key", "key-1");
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };
    let (status, first) =
        send(&host, JSON, r#"{"event":"client.edit","clid":"5","a":{"b":"1","c":"2"},"iduser1":"3"}"#).await;
    assert_eq!(status, 202);
    // Whichever shape and order it comes in again, and after a start.
    for (kind, body) in [
        (JSON, r#"{"event":"client.edit","clid":"5","a":{"b":"1","c":"2"},"iduser1":"3"}"#),
        (FORM, "iduser1=3&a[c]=2&a[b]=1&clid=5&event=client.edit"),
    ] {
        assert_eq!(send(&host, kind, body).await, (202, first.clone()), "{body}");
    }
    host.stop().await.unwrap();
    host.start().await.unwrap();
    let others = [
        "event=client.edit&clid=6&a[c]=2&a[b]=1&iduser1=3",
        "event=client.add&clid=5&a[c]=2&a[b]=1&iduser1=3",
        "event=client.edit&clid=5&a[c]=2&a[b]=1&iduser1=4",
        "event=client.edit&clid=5",
    ];
    for other in others {
        let (status, answer) = send(&host, FORM, other).await;
        assert_eq!((status, &answer["code"]), (422, &json!("ingress.key_reused")), "{other}: {answer}");
    }
    assert_eq!(send(&host, FORM, "iduser1=3&a[c]=2&a[b]=1&clid=5&event=client.edit").await, (202, first.clone()));
    assert_eq!(host.api("events").await.unwrap()["items"].as_array().map(Vec::len), Some(1));
    assert!(host.log().contains("ingress.key_reused") && host.log().contains(first["id"].as_str().unwrap()));
}

#[tokio::test]
async fn a_token_among_the_fields_is_not_kept() {
    let host = Setup::new().unwrap().start().await.unwrap();
    let secret = format!("event=a.b&key={TOKEN}&token=old-token-0123456789");
    let json = format!("{{\"event\":\"a.b\",\"auth\":\"{TOKEN}\"}}");
    for (head, body) in [
        (format!("GET /events/{TOKEN}?{secret} HTTP/1.1"), String::new()),
        (format!("POST /events/{TOKEN}?{secret} HTTP/1.1\nContent-Type: {JSON}"), json),
        (format!("POST /events/{TOKEN} HTTP/1.1\nContent-Type: {FORM}"), format!("event=a.b&key={TOKEN}")),
    ] {
        let (status, _, answer) = raw(&host, &head, body.as_bytes());
        assert_eq!(status, 202, "{answer}");
        assert_eq!(fields(&host, &answer).await, json!({}), "{head}");
    }
    // Without a token in its own place nobody is let in.
    let head = format!("POST /events?token={TOKEN} HTTP/1.1\nContent-Type: {FORM}");
    assert_eq!(raw(&host, &head, b"event=a.b").0, 401);
}

#[tokio::test]
async fn a_sender_behind_a_proxy_is_known_however_the_proxy_writes_it() {
    let mut setup = Setup::new().unwrap();
    setup.server = "trust_proxies = [\"127.0.0.1\"]".to_owned();
    setup.crm_lines = "allow = [\"10.1.0.0/16\", \"2001:db8::/32\"]".to_owned();
    let host = setup.start().await.unwrap();
    for (forwarded, status) in [
        ("10.1.2.3", 202),
        ("10.1.2.3:5678", 202),
        ("[2001:db8::1]:1234", 202),
        ("[2001:db8::1]", 202),
        ("10.9.9.9, 10.1.2.3:1", 202),
        ("10.1.2.3, 10.9.9.9:1", 403),
        ("10.1.2.3, unknown", 403),
        ("10.1.2.3:", 403),
    ] {
        let head = format!("POST /events/{TOKEN} HTTP/1.1\nContent-Type: {FORM}\nX-Forwarded-For: {forwarded}");
        let (found, _, answer) = raw(&host, &head, b"event=a.b");
        assert_eq!(found, status, "{forwarded}: {answer}");
    }
}

#[test]
fn files_that_people_write_are_read_with_marks_and_line_ends_or_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let config = "\u{feff}[server]\r\ndata_dir = \"data\"\r\n[crm.main]\r\ntoken = { file = \"token\" }\r\n";
    let token = format!("\u{feff}{TOKEN}\r\n");
    let grants = "\u{feff}[notify]\r\nstate = true\r\n";
    let check = || {
        let mut command = std::process::Command::new(Setup::new().unwrap().program);
        let output =
            command.args(["config", "check", "--config"]).arg(folder.path().join("host.toml")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let good = [("host.toml", config), ("token", token.as_str()), ("grants.toml", grants)];
    let restore = || good.iter().for_each(|(name, text)| write(name, text.as_bytes()));
    restore();
    assert_eq!(check().0, Some(0), "{}", check().1);
    for other in
        [TOKEN.to_owned(), format!(" {TOKEN}\n\n"), format!("{TOKEN}\u{200b}\r"), format!("\u{feff}\u{feff}{TOKEN}")]
    {
        write("token", other.as_bytes());
        assert_eq!(check().0, Some(0), "{other:?}");
    }
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let cases: [(&str, Vec<u8>, &str); 11] = [
        (
            "token",
            format!("{}\u{200b}{TOKEN}", &TOKEN[..4]).into(),
            "`crm.main.token` holds the invisible character U+200B (line 1, character 5)",
        ),
        ("token", format!("{TOKEN}\r\nold: {TOKEN}").into(), "2 lines"),
        ("token", format!("{TOKEN}\u{a0}{TOKEN}").into(), "U+00A0"),
        ("token", utf16(&token), "UTF-16"),
        ("token", [TOKEN.as_bytes(), b"\xcf"].concat(), "not UTF-8 from line 1, character 22 on"),
        ("host.toml", utf16(config), "UTF-16"),
        ("host.toml", config.replace("[crm", "[crm.\u{200b}x]\n[crm").into(), "line 3"),
        (
            "host.toml",
            config.replace("data\"", "da\u{200d}ta\"").into(),
            "`server.data_dir` holds the invisible character U+200D (line 1, character 3)",
        ),
        ("host.toml", [config.as_bytes(), b"# \xe2\x28"].concat(), "not UTF-8 from line 5, character 3 on"),
        ("grants.toml", grants.replace("state", "st\u{200b}ate").into(), "line 2"),
        ("grants.toml", grants.replace("state = true", "crm = [\"deal.\u{feff}list\"]").into(), "U+FEFF"),
    ];
    for (name, bytes, words) in cases {
        write(name, &bytes);
        let (code, told) = check();
        assert_eq!(code, Some(2), "{name} {words}: {told}");
        assert!(told.contains(words) && !told.contains(TOKEN), "{name} {words}: {told}");
        restore();
    }
}
