//! Tells somebody, by HTTP, what should not wait until morning: a plugin that is paused after failures or missing, dead letters,
//! a CRM that can't be reached, a journal that can't store, and that these are over.
//!
//! - An alert is JSON with a `text` that chats show as it is (Mattermost, Slack, Rocket.Chat), and fields for programs.
//! - The first dead letter of a plugin and code is told at once, those after it together, once a minute by default.
//! - It is tried three times. What can't be told is in the log and counted; nothing waits for it.
//!
//! Not here: deciding that something is wrong (`dispatcher`, `journal`, `registry`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dispatcher::Signal;
use crate::journal::{Alarm, Trouble};
use crate::plugin::PluginName;
use crate::registry::{Snapshot, Start};
use crate::secret::{Renewable, Secret};
use crate::{telemetry, tls};

/// Waits before an alert is tried again.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a plugin that stays missing is told of: what is kept for it grows.
const MISSED_EVERY: Duration = Duration::from_secs(24 * 3_600);

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where alerts go. It mostly holds a token, so it is a secret.
    pub hook: Renewable<Secret>,
    /// How often dead letters of the same plugin and code are told at most.
    pub every: Duration,
    /// Whether the text is Russian.
    pub russian: bool,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alert {
    kind: &'static str,
    text: String,
    /// Empty where it is about none.
    account: String,
    plugin: Option<String>,
    code: Option<String>,
    count: usize,
}

impl Alert {
    fn body(&self) -> Value {
        let Self { kind, text, account, plugin, code, count } = self;
        let account = Some(account).filter(|account| !account.is_empty());
        json!({ "text": text, "kind": kind, "account": account, "plugin": plugin, "code": code, "count": count })
    }
}

/// What dead letters of one plugin, account and code have been told.
#[derive(Default)]
struct Told {
    waiting: usize,
    next: Option<Instant>,
}

/// The connections that alerts go over.
///
/// # Errors
/// When the TLS library can't be set up.
pub fn client() -> Result<reqwest::Client, String> {
    let http = tls::client_builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
    http.map_err(|error| error.to_string())
}

/// Tells what is signalled, for as long as the host lives.
pub async fn run(
    options: Options,
    http: reqwest::Client,
    mut signals: Receiver<Signal>,
    mut journal: watch::Receiver<Alarm>,
    mut plugins: watch::Receiver<Arc<Snapshot>>,
) {
    let mut missed: BTreeMap<PluginName, Instant> = BTreeMap::new();
    plugins.mark_changed();
    let mut told_of_journal: Option<Alert> = None;
    // What was wrong before anybody listened is told as well.
    journal.mark_changed();
    let mut letters: BTreeMap<(String, String, String), Told> = BTreeMap::new();
    loop {
        let due = letters.values().filter(|told| told.waiting > 0).filter_map(|told| told.next);
        let due = due.chain(missed.values().map(|told| *told + MISSED_EVERY)).min();
        let far = Instant::now() + Duration::from_secs(3_600);
        let signal = tokio::select! {
            signal = signals.recv() => Some(signal),
            () = tokio::time::sleep_until(due.unwrap_or(far)) => None,
            changed = journal.changed() => {
                if changed.is_err() {
                    return;
                }
                let alarm = journal.borrow_and_update().clone();
                let alert = about_journal(&alarm, &options);
                let news = if alarm.is_over() { told_of_journal.is_some() } else { told_of_journal.as_ref() != Some(&alert) };
                if news {
                    tell(&http, &options, &alert).await;
                    told_of_journal = Some(alert).filter(|_| !alarm.is_over());
                }
                None
            }
            changed = plugins.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = Arc::clone(&plugins.borrow_and_update());
                // Until the start is over, what is missing may only not have been read yet.
                if now.start == Start::Over {
                    for name in missed.keys().filter(|name| now.plugins.contains_key(*name)) {
                        let text = about_plugin("plugin_resumed", name.to_string(), String::new(), &options);
                        tell(&http, &options, &text).await;
                    }
                    missed.retain(|name, _| now.missed.contains(name));
                    let long_ago = Instant::now().checked_sub(MISSED_EVERY).unwrap_or_else(Instant::now);
                    for name in &now.missed {
                        missed.entry(name.clone()).or_insert(long_ago);
                    }
                }
                None
            }
        };
        let now = Instant::now();
        match signal {
            Some(Ok(Signal::DeadLetter { queue, code, .. })) => {
                let key = (queue.plugin.as_str().to_owned(), queue.account, code);
                letters.entry(key).or_default().waiting += 1;
            }
            Some(Ok(Signal::Paused(queue))) => {
                let (plugin, account) = (queue.plugin.as_str().to_owned(), queue.account);
                tell(&http, &options, &about_plugin("plugin_paused", plugin, account, &options)).await;
            }
            Some(Ok(Signal::Resumed(queue))) => {
                let (plugin, account) = (queue.plugin.as_str().to_owned(), queue.account);
                tell(&http, &options, &about_plugin("plugin_resumed", plugin, account, &options)).await;
            }
            Some(Ok(Signal::Crm(account, back))) => tell(&http, &options, &about_crm(account, back, &options)).await,
            Some(Err(RecvError::Lagged(_))) | None => {}
            Some(Err(RecvError::Closed)) => return,
        }
        for (name, told) in missed.iter_mut().filter(|(_, told)| told.elapsed() >= MISSED_EVERY) {
            *told = now;
            tell(&http, &options, &about_plugin("plugin_missing", name.to_string(), String::new(), &options)).await;
        }
        let due = letters.iter_mut().filter(|(_, told)| told.waiting > 0 && told.next.is_none_or(|next| next <= now));
        for ((plugin, account, code), told) in due {
            let count = std::mem::take(&mut told.waiting);
            told.next = Some(now + options.every);
            let alert = about_letters(plugin.clone(), account.clone(), code.clone(), count, &options);
            tell(&http, &options, &alert).await;
        }
    }
}

fn about_plugin(kind: &'static str, plugin: String, account: String, options: &Options) -> Alert {
    let text = match (kind, options.russian) {
        ("plugin_missing", false) => format!(
            "The plugin {plugin} is missing, or can't be loaded. Its events are kept; `salesman-host plugin list` tells more."
        ),
        ("plugin_missing", true) => {
            format!(
                "Плагин {plugin} пропал или не загружается. Его события хранятся; подробнее — `salesman-host plugin list`."
            )
        }
        (_, false) if account.is_empty() => format!("The plugin {plugin} serves again."),
        (_, true) if account.is_empty() => format!("Плагин {plugin} снова на месте."),
        ("plugin_paused", false) => format!(
            "The plugin {plugin} ({account}) is paused: it failed on many events in a row. Its deliveries wait."
        ),
        ("plugin_paused", true) => {
            format!("Плагин {plugin} ({account}) приостановлен: сбои на многих событиях подряд. Его доставки ждут.")
        }
        (_, false) => format!("The plugin {plugin} ({account}) works again."),
        (_, true) => format!("Плагин {plugin} ({account}) снова работает."),
    };
    Alert { kind, text, account, plugin: Some(plugin), code: None, count: 1 }
}

fn about_crm(account: String, back: bool, options: &Options) -> Alert {
    let (kind, text) = match (back, options.russian) {
        (false, false) => {
            ("crm_unreachable", format!("The CRM {account} can't be reached; deliveries that need it wait."))
        }
        (false, true) => ("crm_unreachable", format!("CRM {account} не отвечает; доставки, которым она нужна, ждут.")),
        (true, false) => ("crm_reachable", format!("The CRM {account} answers again.")),
        (true, true) => ("crm_reachable", format!("CRM {account} снова отвечает.")),
    };
    Alert { kind, text, account, plugin: None, code: None, count: 1 }
}

fn about_journal(alarm: &Alarm, options: &Options) -> Alert {
    let parts: Vec<String> =
        alarm.damaged.iter().map(|damage| format!("{} ({})", damage.what(), damage.remedy())).collect();
    let (kind, text) = match (&alarm.trouble, options.russian) {
        _ if alarm.is_over() => (
            "journal_works",
            if options.russian { "Журнал снова работает." } else { "The journal works again." }.to_owned(),
        ),
        _ if !parts.is_empty() && options.russian => {
            ("journal_failing", format!("Журнал повреждён: {}.", parts.join("; ")))
        }
        _ if !parts.is_empty() => ("journal_failing", format!("The journal is damaged: {}.", parts.join("; "))),
        (trouble, true) => (
            "journal_failing",
            format!("Журнал не может хранить события: {}.", trouble.map_or("причина неизвестна", in_russian)),
        ),
        (trouble, false) => (
            "journal_failing",
            format!("The journal: {}.", trouble.map_or("the reason is not known", Trouble::sentence)),
        ),
    };
    let code = match &alarm.trouble {
        _ if !parts.is_empty() => Some("damaged"),
        trouble => trouble.map(Trouble::code),
    };
    Alert { kind, text, account: String::new(), plugin: None, code: code.map(str::to_owned), count: 1 }
}

fn in_russian(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Full => "диск с папкой данных полон",
        Trouble::Disk => "диск с папкой данных не даёт писать или читать",
        Trouble::Damaged => "он повреждён (`salesman-host journal check`)",
        Trouble::Locked => "его файл держит другая программа",
        Trouble::Refused => "он отказывает в изменениях",
    }
}

fn about_letters(plugin: String, account: String, code: String, count: usize, options: &Options) -> Alert {
    let text = if options.russian {
        format!("Недоставленные события: {count}, плагин {plugin} ({account}), ошибка {code}.")
    } else {
        format!("Dead letters: {count}, plugin {plugin} ({account}), error {code}.")
    };
    Alert { kind: "dead_letters", text, account, plugin: Some(plugin), code: Some(code), count }
}

async fn tell(http: &reqwest::Client, options: &Options, alert: &Alert) {
    let body = alert.body().to_string();
    let mut waits = AGAIN_AFTER.iter();
    loop {
        let request =
            http.post(options.hook.get().expose()).header("content-type", "application/json").body(body.clone());
        let failure = match request.send().await {
            Ok(answer) if answer.status().is_success() => return telemetry::alerted(alert.kind, None),
            Ok(answer) => format!("it answered {}", answer.status().as_u16()),
            // The library's words hold the address, which is a secret.
            Err(error) if error.is_timeout() => "no answer in time".to_owned(),
            Err(error) if error.is_connect() => "no connection".to_owned(),
            Err(_) => "the request failed".to_owned(),
        };
        match waits.next() {
            Some(wait) => tokio::time::sleep(*wait).await,
            None => return telemetry::alerted(alert.kind, Some(&failure)),
        }
    }
}
