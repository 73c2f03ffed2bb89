//! The READMEs' lines for nginx and Apache before a real host, and the generated PHP file behind them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use integration_tests::host::{Host, PATIENCE, Setup, TOKEN};
use integration_tests::php::Crm;
use integration_tests::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::proxy::{Kind, Proxy};

/// A web server, found or unpacked; where neither works the test says why it is skipped.
fn found(kind: Kind) -> Option<Proxy> {
    xtask::proxy::ensure(&xtask::root(), kind).inspect_err(|error| eprintln!("SKIPPED: {error:#}")).ok()
}

/// The lines of an example in a README that begin with this one, up to a line that ends it.
fn example(readme: &str, first: &str, last: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(xtask::root().join(readme)).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
    let mut taken = Vec::new();
    for line in lines.skip_while(|line| !line.starts_with(first)) {
        taken.push(line);
        if line.starts_with(last) {
            return Ok(taken.join("\n"));
        }
    }
    Err(format!("`{readme}` has no example that begins with `{first}`"))
}

/// A web server that runs before a host.
struct Running {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl Running {
    /// Starts it with these lines for its site.
    async fn start(proxy: &Proxy, kind: Kind, host: &Host, site: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let site = site.replace("http://127.0.0.1:8787", host.base());
        let config = folder.path().join("proxy.conf");
        let mut command = proxy.command();
        match kind {
            Kind::Nginx => {
                std::fs::write(&config, nginx(folder.path(), port, &site)).unwrap();
                command.arg("-p").arg(folder.path()).arg("-c").arg(&config);
            }
            Kind::Apache => {
                std::fs::write(&config, apache(folder.path(), &proxy.modules, port, &site)).unwrap();
                command.arg("-d").arg(folder.path()).arg("-f").arg(&config).arg("-X");
            }
        }
        let said = std::fs::File::create(folder.path().join("said")).unwrap();
        let process = command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
        let running = Self { process, folder, port };
        let up = wait_until("the web server", PATIENCE, async || {
            Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop))
        });
        up.await.map_err(|error| format!("{error:#}: {}", running.said())).unwrap();
        running
    }

    fn said(&self) -> String {
        ["said", "error.log"]
            .iter()
            .map(|name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .collect()
    }

    fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One request as its sender writes it; returns status, header lines and body.
    fn raw(&self, request: &str, body: &[u8]) -> (u16, String, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("{request}\r\nHost: crm\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // A proxy that refuses a large body may close before all of it is written.
        drop(stream.write_all(body));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8(answer).unwrap();
        let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| self.said()).unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            head.to_lowercase(),
            serde_json::from_str(body).unwrap_or(Value::Null),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// One process that stays in front, with all that it writes in a folder.
fn nginx(folder: &Path, port: u16, site: &str) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\n{site}\n}}\n}}\n"
    )
}

fn apache(folder: &Path, modules: &Path, port: u16, site: &str) -> String {
    let folder = folder.display();
    let loaded: String = ["mpm_event", "authz_core", "setenvif", "proxy", "proxy_http", "unixd"]
        .iter()
        // Some are built in, which ones differs.
        .filter(|name| modules.join(format!("mod_{name}.so")).exists())
        .map(|name| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.display()))
        .collect();
    format!(
        "{loaded}ServerRoot {folder}\nServerName crm\nDefaultRuntimeDir {folder}\nPidFile {folder}/pid\nMutex file:{folder}\n\
         ErrorLog {folder}/error.log\nUser #65534\nGroup #65534\nListen 127.0.0.1:{port}\n{site}\n"
    )
}

async fn host() -> Host {
    let mut setup = Setup::new().unwrap();
    setup.server = "trust_proxies = [\"127.0.0.1\"]".to_owned();
    setup.crm_lines = "allow = [\"127.0.0.1\"]".to_owned();
    setup.start().await.unwrap()
}

/// Everything that is true of a host behind such a proxy.
async fn check(proxy: &Proxy, kind: Kind, site: &str, whole: bool) {
    let mut host = host().await;
    let running = Running::start(proxy, kind, &host, site).await;
    let form = "Content-Type: application/x-www-form-urlencoded";
    let header = format!("Authorization: Bearer {TOKEN}");
    for (path, header) in [
        ("/events".to_owned(), header.as_str()),
        ("/events/".to_owned(), &header),
        ("//events".to_owned(), &header),
        (format!("/events/{TOKEN}"), "X-Any: thing"),
        (format!("/events/{TOKEN}"), "X-Forwarded-For: 192.0.2.7"),
        (format!("/events/{TOKEN}/"), "Expect: 100-continue"),
        (format!("//events//{TOKEN}"), "X-Any: thing"),
    ] {
        // What a rule for `/events/` alone makes of the address without the slash: the generated file does not use it.
        if !whole && path.ends_with("/events") {
            continue;
        }
        let (status, own, answer) =
            running.raw(&format!("POST {path} HTTP/1.1\r\n{header}\r\n{form}"), b"event=client.edit&clid=5");
        // Whom the proxy has seen is believed: who claims to be another is not let in.
        let expected = if header.contains("192.0.2.7") { 403 } else { 202 };
        assert_eq!(status, expected, "{path}: {own} {answer} {}", running.said());
        assert!(own.contains("x-salesman-host: 1"), "{path}: {own}");
    }
    if whole {
        for path in ["/console", "/metrics", "/api/v1/events", "/healthz", "/eventsx"] {
            assert_eq!(running.raw(&format!("GET {path} HTTP/1.1\r\nX-Any: thing"), b"").0, 404, "{path}");
        }
        let padded = |bytes: usize| [b"event=client.edit&x=", &vec![b'y'; bytes][..]].concat();
        let post = format!("POST /events/{TOKEN} HTTP/1.1\r\n{form}");
        let (status, own, answer) = running.raw(&post, &padded(2 << 20));
        assert_eq!(
            (status, own.contains("x-salesman-host"), &answer["code"]),
            (413, true, &json!("ingress.too_large")),
            "{own}"
        );
        if kind == Kind::Nginx {
            let (status, own, _) = running.raw(&post, &padded(5 << 20));
            assert_eq!((status, own.contains("x-salesman-host")), (413, false), "the proxy's own: {own}");
        }
    }
    behind(&running, &mut host).await;
}

/// The generated file behind it: an import arrives, and what comes while the host is away arrives later.
async fn behind(running: &Running, host: &mut Host) {
    let php = match xtask::php::ensure(&xtask::root()) {
        Ok(php) => Arc::new(php),
        Err(error) => return eprintln!("SKIPPED: {error:#}"),
    };
    let printed = std::process::Command::new(Setup::new().unwrap().program)
        .args(["events-php", "--url", &running.base(), "--total-ms", "20000", "--config"])
        .arg(host.folder().join("host.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    let crm = Crm::new(&php, &text).unwrap();
    let ids: Vec<u64> = (100_000..105_000).collect();
    crm.page(&json!([["client.edit", { "clid": 1 }], ["client.import", { "clids": ids, "pids": ids }]])).await.unwrap();
    let arrived = async |host: &Host, name: &str| {
        let page = host.api(&format!("events?name={name}")).await.unwrap();
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(
        (arrived(host, "client.import").await, crm.spool().join("q").exists()),
        (1, false),
        "{}",
        running.said()
    );
    // The proxy answers in the host's place: nothing is decided, nothing is lost.
    host.kill().unwrap();
    crm.page(&json!([["deal.add", { "did": 7 }], ["deal.edit", { "did": 7 }]])).await.unwrap();
    for _ in 0..4 {
        let (code, said) = crm.cron("--flush").await.unwrap();
        assert!(
            code == Some(1) && said.contains("refused 0, set aside 0") && said.contains("a proxy answered 50"),
            "{said}"
        );
    }
    let (_, status) = crm.cron("--status").await.unwrap();
    assert!(status.contains("waiting: 2 events"), "{status}");
}

#[tokio::test]
async fn the_readmes_lines_for_nginx_fit_the_host_and_the_generated_file() {
    let Some(proxy) = found(Kind::Nginx) else { return };
    for readme in ["README.md", "README.ru.md"] {
        check(&proxy, Kind::Nginx, &example(readme, "location ~ ^/events", "}").unwrap(), true).await;
    }
}

#[tokio::test]
async fn lines_for_nginx_that_people_write_by_hand_work_as_well() {
    let Some(proxy) = found(Kind::Nginx) else { return };
    for site in [
        // HTTP/1.0 to the host, and the address as it comes.
        "location /events/ { proxy_pass http://127.0.0.1:8787; proxy_http_version 1.0; }",
        // A path behind it, which doubles the slash.
        "location /events/ { proxy_pass http://127.0.0.1:8787/events//; }",
        "merge_slashes off;\nlocation / { proxy_pass http://127.0.0.1:8787; proxy_request_buffering off; }",
    ] {
        check(&proxy, Kind::Nginx, site, false).await;
    }
}

#[tokio::test]
async fn the_readmes_lines_for_apache_fit_the_host_and_the_generated_file() {
    let Some(proxy) = found(Kind::Apache) else { return };
    for readme in ["README.md", "README.ru.md"] {
        check(&proxy, Kind::Apache, &example(readme, "ProxyPass \"/events\"", "SetEnvIf").unwrap(), true).await;
    }
}

#[tokio::test]
async fn a_body_that_the_proxy_alone_refuses_is_set_aside_and_the_others_arrive() {
    let (Some(proxy), Ok(php)) = (found(Kind::Nginx), xtask::php::ensure(&xtask::root())) else { return };
    let host = host().await;
    let site = "location /events/ { proxy_pass http://127.0.0.1:8787; client_max_body_size 2k; }";
    let running = Running::start(&proxy, Kind::Nginx, &host, site).await;
    let printed = std::process::Command::new(Setup::new().unwrap().program)
        .args(["events-php", "--url", &running.base(), "--config"])
        .arg(host.folder().join("host.toml"))
        .output()
        .unwrap();
    let crm = Crm::new(&Arc::new(php), &String::from_utf8(printed.stdout).unwrap()).unwrap();
    crm.page(&json!([["client.edit", { "clid": 1, "x": "y".repeat(4_000) }], ["client.edit", { "clid": 2 }]]))
        .await
        .unwrap();
    for _ in 0..3 {
        crm.cron("--flush").await.unwrap();
    }
    let (code, status) = crm.cron("--status").await.unwrap();
    assert!(code == Some(1) && status.contains("waiting: 0 events") && status.contains("set aside: 1 "), "{status}");
    let events = host.api("events").await.unwrap();
    assert_eq!(
        (events["items"].as_array().map(Vec::len), &events["items"][0]["entity"]),
        (Some(1), &json!("client:2"))
    );
}

/// A proxy as its documentation begins: everything is passed on, and nothing is said of who asks.
async fn tells_nobody(proxy: &Proxy, kind: Kind, site: &str) {
    let host = Setup::new().unwrap().start().await.unwrap();
    host.accepted("event=client.edit&clid=5&phone=planted").await.unwrap();
    let running = Running::start(proxy, kind, &host, site).await;
    for path in ["/api/v1/events", "/api/v1/me", "/metrics", "/api/v1/live", "/console", "/console/events"] {
        let (status, head, answer) = running.raw(&format!("GET {path} HTTP/1.1\r\nX-Any: thing"), b"");
        assert!(matches!(status, 401 | 303), "{path}: {status} {head} {answer}");
        assert!(!answer.to_string().contains("planted"), "{path}: {answer}");
    }
    for (kind, body) in [("application/json", "{}"), ("application/x-www-form-urlencoded", "event=client.edit&clid=5")]
    {
        for path in ["/api/v1/plugins/one/revoke", "/api/v1/plugins/one/resume", "/api/v1/events", "/console/dead/all"]
        {
            let request = format!("POST {path} HTTP/1.1\r\nContent-Type: {kind}");
            let (status, head, answer) = running.raw(&request, body.as_bytes());
            assert_eq!(status, 401, "{path}: {head} {answer}");
        }
    }
    assert_eq!(host.api("audit").await.unwrap()["items"], json!([]));
}

#[tokio::test]
async fn a_proxy_that_passes_everything_on_makes_nobody_an_administrator() {
    if let Some(proxy) = found(Kind::Nginx) {
        tells_nobody(&proxy, Kind::Nginx, "location / { proxy_pass http://127.0.0.1:8787; }").await;
    }
    if let Some(proxy) = found(Kind::Apache) {
        tells_nobody(&proxy, Kind::Apache, "ProxyPass \"/\" \"http://127.0.0.1:8787/\"").await;
    }
}
