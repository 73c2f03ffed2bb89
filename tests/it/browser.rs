//! The console in a real browser: what an operator does at night, with scripts and without, and whether everybody can.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::error::NewSessionError;
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use integration_tests::host::{Host, PATIENCE};
use integration_tests::stand_in::{Hook, Options, Shape, StandIn};
use integration_tests::wait_until;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::browser::Browser;

/// A driver with its browser.
struct Session {
    client: Client,
    driver: Child,
    _folder: TempDir,
}

impl Session {
    /// A browser that prefers a language, with scripts or without.
    async fn start(browser: &Browser, language: &str, scripts: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.path().join("driver.log")).unwrap();
        let mut command = browser.driver();
        let driver = command.arg(format!("--port={port}")).stdout(log.try_clone().unwrap()).stderr(log);
        let driver = driver.stdin(Stdio::null()).spawn().unwrap();
        let profile = folder.path().join("profile");
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            format!("--accept-lang={language}"),
            format!("--user-data-dir={}", profile.display()),
        ];
        if !scripts {
            arguments.push("--blink-settings=scriptEnabled=false".to_owned());
        }
        let options =
            json!({ "binary": browser.program, "args": arguments, "prefs": { "intl.accept_languages": language } });
        let capabilities = [("goog:chromeOptions".to_owned(), options)].into_iter().collect();
        let connector = hyper_util::client::legacy::connect::HttpConnector::new();
        let client = wait_until("the browser", Duration::from_secs(60), async || {
            let mut builder = ClientBuilder::new(connector.clone());
            builder.capabilities(std::clone::Clone::clone(&capabilities));
            match builder.connect(&format!("http://127.0.0.1:{port}")).await {
                Ok(client) => Ok(Some(client)),
                // The driver does not listen yet.
                Err(NewSessionError::FailedC(_) | NewSessionError::Lost(_)) => Ok(None),
                Err(error) => {
                    let said = std::fs::read_to_string(folder.path().join("driver.log")).unwrap_or_default();
                    anyhow::bail!("{error}\n{said}")
                }
            }
        });
        Self { client: client.await.unwrap(), driver, _folder: folder }
    }

    async fn size(&self, width: u32, height: u32) {
        self.client.set_window_size(width, height).await.unwrap();
    }

    async fn go(&self, host: &Host, path: &str) {
        self.client.goto(&format!("{}{path}", host.base())).await.unwrap();
    }

    async fn text(&self, selector: &str) -> String {
        self.find(selector).await.text().await.unwrap()
    }

    /// The first such element, as soon as there is one: a page may still be on its way.
    async fn find(&self, selector: &str) -> Element {
        let found = async || Ok(self.client.find(Locator::Css(selector)).await.ok());
        wait_until(&format!("`{selector}`"), PATIENCE, found).await.unwrap()
    }

    async fn click(&self, selector: &str) {
        self.find(selector).await.click().await.unwrap();
    }

    async fn fill(&self, selector: &str, text: &str) {
        let field = self.find(selector).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Waits until an element's text is so.
    async fn becomes(&self, selector: &str, wanted: &str) {
        let what = format!("`{selector}` with `{wanted}`");
        let found = wait_until(&what, PATIENCE, async || {
            let Ok(element) = self.client.find(Locator::Css(selector)).await else { return Ok(None) };
            // It may be replaced while it is read.
            Ok(element.text().await.is_ok_and(|text| text.contains(wanted)).then_some(()))
        });
        if let Err(error) = found.await {
            let page = self.text("body").await;
            assert!(page.is_empty(), "{error}; the page says:\n{page}");
        }
    }

    /// Whether the page scrolls sideways.
    async fn overflows(&self) -> bool {
        let script = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        self.client.execute(script, Vec::new()).await.unwrap() == json!(true)
    }

    async fn end(mut self) {
        self.client.clone().close().await.unwrap();
        self.driver.kill().unwrap();
        self.driver.wait().unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

/// Where pictures are kept: a build artefact.
fn pictures() -> PathBuf {
    let folder = xtask::root().join("target/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// What is wrong with a page for those who see, hear or move otherwise; everything that it asked other hosts for; whether it
/// is wider than its window.
async fn look(session: &Session, axe: Option<&Path>, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(axe) = axe {
        session.client.execute(&std::fs::read_to_string(axe).unwrap(), Vec::new()).await.unwrap();
        let script = "const done = arguments[0]; axe.run().then(found => done(found.violations.map(one => one.id + ': ' + one.nodes.map(node => node.html).join(' | '))), error => done([String(error)]))";
        let found = session.client.execute_async(script, Vec::new()).await.unwrap();
        wrong.extend(found.as_array().unwrap().iter().map(|one| format!("{name}: {}", one.as_str().unwrap())));
    }
    let script = "return performance.getEntriesByType('resource').map(one => one.name).filter(name => new URL(name).origin !== location.origin)";
    let elsewhere = session.client.execute(script, Vec::new()).await.unwrap();
    wrong.extend(elsewhere.as_array().unwrap().iter().map(|one| format!("{name} asks {one}")));
    if session.overflows().await {
        wrong.push(format!("{name} is wider than its window"));
    }
    // The whole page, not only what the window shows of it.
    let height = session.client.execute("return document.documentElement.scrollHeight", Vec::new()).await.unwrap();
    let (width, window) = session.client.get_window_size().await.unwrap();
    let height = u32::try_from(height.as_u64().unwrap()).unwrap().min(6_000);
    session.size(u32::try_from(width).unwrap(), height + 150).await;
    std::fs::write(pictures().join(format!("{name}.png")), session.client.screenshot().await.unwrap()).unwrap();
    session.size(u32::try_from(width).unwrap(), u32::try_from(window).unwrap()).await;
    wrong
}

/// The browser and the checker; or why the test is skipped, said aloud.
fn tools() -> Option<(Browser, Option<PathBuf>)> {
    let browser = match xtask::browser::ensure(&xtask::root()) {
        Ok(browser) => browser,
        Err(error) => {
            eprintln!("SKIPPED: the console was not tried in a browser: {error:#}");
            return None;
        }
    };
    let axe = xtask::axe::ensure(&xtask::root());
    if let Err(error) = &axe {
        eprintln!("SKIPPED: pages were not checked for accessibility: {error:#}");
    }
    Some((browser, axe.ok()))
}

/// A host with users, plugins that do what events say, and a night's worth of events.
async fn night() -> (Host, StandIn, TempDir, String) {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await.unwrap();
    let folder = crate::plugins(&[("one", "*"), ("rewriter", "client.edit")]);
    let mut setup = crate::operators::with_users().crm(&crm).plugins(folder.path());
    setup = setup.more("[plugins.rewriter.settings]\nsin = \"none\"\n[plugins.one.settings]\nsin = \"rewrite\"");
    let host = setup.start().await.unwrap();
    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Webhook)]);
    for id in 1..=30 {
        host.accepted(&format!("event=deal.edit&did={id}&sin=none&iduser1=4&title=Сделка {id}")).await.unwrap();
    }
    let dead = host.accepted("event=client.edit&clid=77&sin=once&iduser1=4&title=Ромашка").await.unwrap();
    host.accepted("event=deal.edit&did=99&sin=panic&iduser1=4").await.unwrap();
    // Its write causes another event: there is a chain to draw.
    host.accepted("event=client.edit&clid=1&iduser1=4&sin=rewrite").await.unwrap();
    (host, crm, folder, dead)
}

#[tokio::test]
async fn an_operators_night_in_a_browser() {
    let Some((browser, axe)) = tools() else { return };
    let axe = axe.as_deref();
    let (host, _crm, _folder, dead) = night().await;
    let session = Session::start(&browser, "en", true).await;
    let mut wrong = Vec::new();
    session.size(1280, 900).await;

    // Log in.
    session.go(&host, "/console").await;
    session.becomes("h1", "Log in").await;
    wrong.extend(look(&session, axe, "login-desktop").await);
    session.fill("#name", "anna").await;
    session.fill("#password", "wrong").await;
    session.click("main button").await;
    session.becomes("[role=alert]", "Name or password is wrong.").await;
    session.fill("#name", "anna").await;
    session.fill("#password", "correct horse").await;
    session.click("main button").await;
    session.becomes("h1", "Overview").await;
    session.becomes("#now", "Dead letters").await;

    // The keyboard leads past the navigation.
    let body = session.client.find(Locator::Css("body")).await.unwrap();
    body.send_keys(&char::from(Key::Tab).to_string()).await.unwrap();
    let focused = session.client.active_element().await.unwrap();
    assert_eq!(focused.text().await.unwrap(), "Skip to the content");
    focused.send_keys(&char::from(Key::Enter).to_string()).await.unwrap();
    let focused = session.client.active_element().await.unwrap();
    assert_eq!(focused.attr("id").await.unwrap().as_deref(), Some("main"));

    // Find an event, by the keyboard as well.
    session.click("nav a[href='/console/events']").await;
    session.fill("#text", "ромашка").await;
    let field = session.client.find(Locator::Css("#text")).await.unwrap();
    field.send_keys(&char::from(Key::Enter).to_string()).await.unwrap();
    session.becomes("tbody", "client:77").await;
    assert_eq!(session.client.find_all(Locator::Css("tbody tr")).await.unwrap().len(), 1);

    // Read its path, retry its dead letter, and watch it succeed without a reload.
    session.click("tbody th a").await;
    session.becomes("#deliveries", "not the first time").await;
    assert!(session.text("pre.payload").await.contains("Ромашка"));
    let article = "#deliveries article:first-child";
    session.becomes(&format!("{article} h3"), "dead letter").await;
    // Held back for a moment, so that its success is seen to come.
    wish(&host, "plugins/one/pause").await;
    session.click(&format!("{article} form[action$='/retry'] button")).await;
    session.becomes(&format!("{article} h3"), "waits").await;
    session.client.execute("window.stays = true", Vec::new()).await.unwrap();
    wish(&host, "plugins/one/resume").await;
    session.becomes(&format!("{article} h3"), "done").await;
    assert_eq!(session.client.execute("return window.stays", Vec::new()).await.unwrap(), json!(true));
    session.becomes("#deliveries", "this time it went well").await;
    wrong.extend(look(&session, axe, "event-desktop").await);

    // The same by its button, for the other letter.
    session.go(&host, "/console/dead").await;
    session.becomes("#groups", "plugin.trap").await;
    wrong.extend(look(&session, axe, "dead-desktop").await);
    session.click("#letters tbody input[type=checkbox]").await;
    session.click("button[name=do][value=retry]:not(details button)").await;
    session.becomes("[role=status]", "changed: 1").await;

    // A whole group at a pace, with its progress.
    session.becomes("#groups", "plugin.trap").await;
    session.go(&host, "/console/dead?code=plugin.trap").await;
    session.becomes("#letters tbody", "deal.edit").await;
    session.click("main details.card > summary").await;
    session.click("details button[value=retry]").await;
    session.becomes("#jobs", "1 / 1").await;

    // A plugin is paused, and goes on.
    session.go(&host, "/console/plugins/one").await;
    session.click("form[action$='/pause'] button").await;
    session.becomes("#state", "paused by an operator").await;
    session.click("form[action$='/resume'] button").await;
    session.becomes("#state", "works").await;

    // The chain of causes is drawn.
    let chain = wait_until("an event that was caused", PATIENCE, async || {
        let found = api(&host, "events?entity=client:1&name=client.edit").await;
        let caused = found["items"].as_array().unwrap().iter().find(|event| event["depth"] == 1).cloned();
        Ok(caused)
    })
    .await
    .unwrap();
    session.go(&host, &format!("/console/events/{}", chain["id"].as_str().unwrap())).await;
    assert!(!session.client.find_all(Locator::Css("svg.chain .node.plugin")).await.unwrap().is_empty());
    wrong.extend(look(&session, axe, "chain-desktop").await);

    // Switch the language, and back.
    session.go(&host, "/console").await;
    session.click("a.language").await;
    session.becomes("h1", "Обзор").await;
    let html = session.client.find(Locator::Css("html")).await.unwrap();
    assert_eq!(html.attr("lang").await.unwrap().as_deref(), Some("ru"));
    let places = ["", "/events", "/plugins", "/plugins/one", "/dead", "/audit", &format!("/events/{dead}")];
    let names = ["overview", "events", "plugins", "plugin", "dead", "audit", "event"];
    for (place, name) in places.iter().zip(names) {
        session.go(&host, &format!("/console{place}")).await;
        wrong.extend(look(&session, axe, &format!("{name}-ru-desktop")).await);
    }
    session.go(&host, "/console/events/nonsense").await;
    wrong.extend(look(&session, axe, "problem-ru-desktop").await);
    // On a phone.
    session.size(390, 844).await;
    for (place, name) in places.iter().zip(names) {
        session.go(&host, &format!("/console{place}")).await;
        wrong.extend(look(&session, axe, &format!("{name}-ru-phone")).await);
    }
    session.size(1280, 900).await;
    session.click("a.language").await;
    for (place, name) in places.iter().zip(names) {
        session.go(&host, &format!("/console{place}")).await;
        wrong.extend(look(&session, axe, &format!("{name}-desktop")).await);
    }
    session.click("form[action='/console/logout'] button").await;
    session.becomes("h1", "Log in").await;
    session.end().await;
    assert_eq!(wrong, Vec::<String>::new());
}

#[tokio::test]
async fn without_scripts_everything_but_liveness_works() {
    let Some((browser, _)) = tools() else { return };
    let (host, _crm, _folder, dead) = night().await;
    let session = Session::start(&browser, "ru", false).await;
    session.go(&host, "/console/events?entity=client:77").await;
    // The browser's own language, and back to where one wanted to go.
    session.becomes("h1", "Вход").await;
    session.fill("#name", "anna").await;
    session.fill("#password", "correct horse").await;
    session.click("main button").await;
    session.becomes("h1", "События").await;
    session.click("tbody th a").await;
    session.click("form[action$='/retry'] button").await;
    session.becomes("[role=status]", "Готово.").await;
    wait_until("its good end", PATIENCE, async || {
        session.go(&host, &format!("/console/events/{dead}")).await;
        Ok(session.text("#deliveries article:first-child h3").await.contains("выполнено").then_some(()))
    })
    .await
    .unwrap();
    // What can't be undone asks once more.
    session.go(&host, "/console/dead").await;
    let letters = session.client.find_all(Locator::Css("#letters tbody tr")).await.unwrap().len();
    session.click("#letters tbody a").await;
    session.click("article details summary").await;
    session.click("form[action$='/drop'] button").await;
    session.becomes("[role=status]", "Готово.").await;
    session.go(&host, "/console/dead").await;
    let left = session.client.find_all(Locator::Css("#letters tbody tr")).await.unwrap().len();
    assert_eq!(left + 1, letters);
    session.end().await;
}

/// The API, as a script asks it.
async fn api(host: &Host, path: &str) -> Value {
    let request = integration_tests::host::http_client().unwrap().get(format!("{}/api/v1/{path}", host.base()));
    let answer = request.bearer_auth("a-token-of-a-script").send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

/// Asks for something, as another operator does.
async fn wish(host: &Host, path: &str) {
    let client = integration_tests::host::http_client().unwrap();
    let request = client.post(format!("{}/api/v1/{path}", host.base())).bearer_auth("a-token-of-a-script");
    let answer = request.header("content-type", "application/json").body("{}").send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
}
