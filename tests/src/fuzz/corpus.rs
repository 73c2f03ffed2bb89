//! What is damaged: good inputs of every kind.

use std::path::Path;

use anyhow::Context as _;

use super::Target;
use crate::host::TOKEN;

/// A secret of the configuration's inputs: it must not be quoted anywhere.
pub(super) const SECRET: &str = "fuzz-secret-0123456789";

/// How an input gets to where it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// As bytes.
    Bytes,
    /// As the body of a request.
    Body { path: &'static str, head: &'static str },
    /// As what stands behind the path.
    Query { path: &'static str },
    /// As a whole request.
    Request,
}

/// A good input.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) way: Way,
    pub(super) bytes: Vec<u8>,
}

impl Input {
    /// A damaged one, with how it was sent, for the file that is kept.
    pub(super) fn shown(&self, bytes: &[u8]) -> Vec<u8> {
        match &self.way {
            Way::Bytes | Way::Request => bytes.to_vec(),
            way => [format!("{way:?}\n").as_bytes(), bytes].concat(),
        }
    }
}

fn bytes(text: &str) -> Input {
    Input { way: Way::Bytes, bytes: text.as_bytes().to_vec() }
}

pub(super) fn of(target: Target, plugins: &Path) -> anyhow::Result<Vec<Input>> {
    Ok(match target {
        Target::Intake => intake()?,
        Target::Api => api(),
        Target::Plugin => files(plugins)?,
        Target::Manifest => manifests(),
        Target::Answer => ANSWERS.iter().map(|text| bytes(text)).collect(),
        Target::Config => configurations(),
    })
}

fn intake() -> anyhow::Result<Vec<Input>> {
    const FORM: &str = "event=deal.change.step&did=7&stepNew=40&ses=abc&iduser1=2&a%5Bb%5D%5B%5D=1&a[b][]=%D0%96+1&x=";
    const JSON: &str = r#"{"event":"client.add","clid":5,"title":"Ж\u0436\n","ses":"x","iduser1":"2","list":[1,2.50,null,true,{"a":{}}],"big":12345678901234567890123}"#;
    const PARTS: &str = "--x\r\ncontent-disposition: form-data; name=\"event\"\r\n\r\nclient.edit\r\n--x\r\ncontent-disposition: form-data; name=\"a[]\"\r\n\r\n1\r\n--x--\r\n";
    let post = |head, body: &[u8]| Input { way: Way::Body { path: "/events/TOKEN", head }, bytes: body.to_vec() };
    let mut packed = Vec::new();
    for (text, body) in [("form", FORM), ("json", JSON)] {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packer, body.as_bytes())
            .with_context(|| format!("failed to pack the {text}"))?;
        packed.push(packer.finish()?);
    }
    let request = format!(
        "POST /events/{TOKEN}?more=1 HTTP/1.1\r\nhost: x\r\nidempotency-key: k-1\r\ncontent-type: application/json; charset=utf-8\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{JSON}",
        JSON.len()
    );
    let form = "content-type: application/x-www-form-urlencoded";
    let mut inputs = vec![
        post(form, FORM.as_bytes()),
        post("content-type: application/json", JSON.as_bytes()),
        post("content-type: multipart/form-data; boundary=x", PARTS.as_bytes()),
        post("content-type: application/json", b"{\"event\":\"a.b\",\"deep\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}"),
        Input { way: Way::Query { path: "/events/TOKEN?" }, bytes: FORM.as_bytes().to_vec() },
        Input { way: Way::Request, bytes: request.into_bytes() },
    ];
    let heads = [
        "content-type: application/x-www-form-urlencoded\r\ncontent-encoding: gzip",
        "content-type: application/json\r\ncontent-encoding: gzip",
    ];
    inputs.extend(heads.iter().zip(&packed).map(|(head, body)| post(head, body)));
    Ok(inputs)
}

fn api() -> Vec<Input> {
    let queries: [(&str, &str); 12] = [
        (
            "/api/v1/events?",
            "name=deal.*&entity=client:5&actor=2&account=main&since=0&until=9999999999999&text=%D0%96&plugin=a&outcome=failed&limit=50",
        ),
        ("/api/v1/events?", "cursor=17&limit=200"),
        ("/api/v1/events/", "018f0000-0000-7000-8000-000000000001?unmasked=true"),
        ("/api/v1/deliveries/", "17?unmasked=true"),
        ("/api/v1/dead?", "plugin=a&account=main&code=retry&event=a.b&since=1&until=2&limit=3&cursor=4"),
        ("/api/v1/dead/count?", "plugin=a&limit=3"),
        ("/api/v1/failures?", "plugin=a&limit=3"),
        ("/api/v1/plugins/", "notify"),
        ("/api/v1/audit?", "cursor=9&limit=9"),
        ("/api/v1/forgotten?", "cursor=9&limit=9"),
        ("/api/v1/forgotten/", "1"),
        ("/api/v1/forget/main/", "client:5?mentions=true"),
    ];
    let wishes: [(&str, &str); 7] = [
        ("/api/v1/events", r#"{"account":"main","event":"client.add","fields":{"clid":"5","a":[1,null]}}"#),
        ("/api/v1/events/replay", r#"{"plugin":"a","name":"deal.*","since":1,"pace":5.5}"#),
        ("/api/v1/dead/retry", r#"{"plugin":"a","code":"retry","pace":0.5}"#),
        ("/api/v1/dead/drop", r#"{"deliveries":[17,18]}"#),
        ("/api/v1/forget", r#"{"account":"main","entity":"client:5","mentions":false}"#),
        ("/api/v1/audit", r#"{"action":"plugin.grant","object":"a","details":"x"}"#),
        ("/api/v1/plugins/a/grant", r#"{"http":["https://chat.example.com"]}"#),
    ];
    let queries = queries.map(|(path, query)| Input { way: Way::Query { path }, bytes: query.as_bytes().to_vec() });
    let wishes = wishes.map(|(path, wish)| Input {
        way: Way::Body { path, head: "content-type: application/json" },
        bytes: wish.as_bytes().to_vec(),
    });
    queries.into_iter().chain(wishes).collect()
}

fn files(plugins: &Path) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(plugins).with_context(|| format!("failed to read `{}`", plugins.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            inputs.push(Input { way: Way::Bytes, bytes: std::fs::read(path)? });
        }
    }
    anyhow::ensure!(!inputs.is_empty(), "`{}` holds no plugin", plugins.display());
    Ok(inputs)
}

fn manifests() -> Vec<Input> {
    let all = "name = \"notify\"\nversion = \"1.0.0\"\ndescription = \"Пишет в чат.\"\nevents = [\"deal.*\", \"client.add\", \"*\"]\norder = \"none\"\n[permissions]\ncrm = [\"deal.list\", \"task.*\", \"*\"]\nhttp = [\"https://chat.example.com:8443\", \"*\"]\nstate = true\n[limits]\nmemory_mib = 64\ncpu_ms = 1000\ntime_ms = 30000\ncalls = 100\n[settings]\nurl = \"https://x.example\"\nlist = [1, 2.5, true, { a = 1979-05-27 }]\n";
    vec![bytes(all), bytes("name = \"a\"\nevents = [\"*\"]")]
}

/// As the CRM gives them, and as what stands before it does.
const ANSWERS: [&str; 12] = [
    r#"{"result":"Успешно","data":5}"#,
    r#"{"data":[{"clid":"5","title":"Ромашка \"Ж\"","user":null}],"count":"1"}"#,
    r#"{"result":"Error","error":{"code":403,"text":"Отсутствует параметр clid"}}"#,
    r#"{"error":{"code":"302","text":""},"data":[]}"#,
    r#"{"error":"нет прав"}"#,
    "[]",
    "\u{feff}{\"result\":\"Ok\"}\n<br />\n<b>Warning</b>:  Undefined variable in <b>/var/www/x.php</b> on line <b>7</b><br />",
    "<br />\n<b>Fatal error</b>:  Uncaught mysqli_sql_exception: You have an error in your SQL syntax in /var/www/api.php:12",
    "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center><hr><center>nginx</center></body></html>",
    "<!DOCTYPE html><title>Login</title><form action=\"/login\">",
    "",
    "{\"data\":{\"deep\":[[[[[[[[{}]]]]]]]]}}",
];

fn configurations() -> Vec<Input> {
    let whole = format!(
        "[server]\nlisten = \"127.0.0.1:8787\"\ndata_dir = \"data\"\nmax_body_kib = 64\ntrust_proxies = [\"10.0.0.0/8\"]\n[plugins]\ndir = \"plugins\"\n[crm.main]\nurl = \"https://crm.example.com\"\nlogin = \"a@example.com\"\napi_key = \"{SECRET}\"\ntoken = [\"{SECRET}\"]\nallow = [\"192.168.0.0/16\"]\nwatch = [\"leads\", \"deals\"]\n[plugins.notify]\norder = \"none\"\n[plugins.notify.settings]\ntoken = \"{SECRET}\"\n[plugins.notify.grants]\ncrm = [\"deal.list\"]\nhttp = [\"https://chat.example.com\"]\n[plugins.notify.limits]\ncpu_ms = 500\n[console]\nmask = [\"phone\"]\n[console.tokens.watch]\nrole = \"viewer\"\ntoken = \"{SECRET}\"\n[retention]\ndays = 30\n[alerts]\nhook = \"https://hook.example.com/{SECRET}\"\nlanguage = \"ru\"\n"
    );
    let small = format!("[crm.main]\ntoken = \"{SECRET}\"\n");
    vec![bytes(&whole), bytes(&small), bytes(include_str!("../../../host/default.toml"))]
}
