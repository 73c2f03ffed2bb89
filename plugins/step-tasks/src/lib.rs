//! A task for the responsible employee when a deal moves to a stage.
//!
//! The deal is read by `deal.list`, because `deal.info` answers null for most fields.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan};
use salesman_plugin_sdk::{Error, Event, EventData, Host, Plugin, Reply, Result};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Settings {
    utc_offset_hours: i8,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    step: String,
    title: String,
    description: String,
    kind: String,
    days: i64,
    time: String,
}

struct StepTasks;

impl Plugin for StepTasks {
    fn handle(&self, event: Event, host: &Host) -> Result<Reply> {
        let EventData::DealChangeStep(change) = event.data()? else { return Reply::skip() };
        let step = change.step_new.unwrap_or_default();
        let settings: Settings = host.settings()?;
        let Some(rule) = settings.rules.iter().find(|rule| rule.step == step) else {
            return Reply::skip_because(format!("no rule for the stage `{step}`"));
        };
        let Some(deal) = host.crm().deal(change.did)? else {
            return Reply::skip_because(format!("the deal {} is not in the CRM's list any more", change.did));
        };
        let text = |key: &str| deal.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (title, user) = (text("title"), text("user"));
        let filled = |template: &str| {
            template.replace("{did}", &change.did.to_string()).replace("{deal}", &title).replace("{step}", &step)
        };
        if user.is_empty() {
            host.warn("the deal has no responsible employee: the task goes to the API's own user");
        }
        let task = json!({
            "title": filled(&rule.title),
            "des": filled(&rule.description),
            "datum": date(event.received_at, settings.utc_offset_hours, rule.days)?,
            "totime": rule.time,
            "tip": rule.kind,
            "did": change.did,
            "clid": deal.get("clid"),
            "user": (!user.is_empty()).then_some(user),
        });
        let added = host.crm().call("task", "add", &task)?;
        host.info(format!("task {} added for deal {}", added.id().unwrap_or_default(), change.did));
        Reply::done()
    }
}

/// The day that comes `days` after the event, where the office is.
fn date(received_at: u64, offset: i8, days: i64) -> Result<String> {
    let offset = Offset::from_hours(offset).map_err(|error| Error::data(format!("`utc_offset_hours`: {error}")))?;
    let received = i64::try_from(received_at).ok().and_then(|time| Timestamp::from_millisecond(time).ok());
    let day = received.unwrap_or_default().to_zoned(TimeZone::fixed(offset)).date();
    let due = day.checked_add(days.days()).map_err(|error| Error::data(format!("`days`: {error}")))?;
    Ok(due.to_string())
}

salesman_plugin_sdk::export!(StepTasks);

#[cfg(test)]
mod tests {
    use salesman_plugin_sdk::testing::{FakeHost, event};

    use super::*;

    fn host() -> FakeHost {
        FakeHost::new()
            .with_settings(json!({ "utc_offset_hours": 3, "rules": [
                { "step": "40", "title": "Позвонить: {deal}", "description": "{did}/{step}", "kind": "Звонок", "days": 1, "time": "10:00" }
            ]}))
            .answer("deal.list", json!({ "data": [{ "did": 4, "clid": 1, "title": "Поставка", "user": "ui@example.test" }] }))
            .answer("task.add", json!({ "result": "Успешно", "data": 9 }))
    }

    #[test]
    fn the_task_goes_to_the_deals_own_employee_with_filled_texts() {
        let fake = host();
        let moved = event("deal.change.step", &[("did", "4"), ("stepOld", "20"), ("stepNew", "40")]);
        assert_eq!(StepTasks.handle(moved, &fake.host()), Reply::done());
        assert_eq!(
            fake.calls(),
            [
                ("deal.list".to_owned(), json!({ "filter": { "did": 4 }, "order": "did", "first": "old" })),
                (
                    "task.add".to_owned(),
                    json!({ "title": "Позвонить: Поставка", "des": "4/40", "datum": "2025-11-25", "totime": "10:00",
                            "tip": "Звонок", "did": 4, "clid": 1, "user": "ui@example.test" })
                ),
            ]
        );
    }

    #[test]
    fn a_stage_without_a_rule_costs_no_call() {
        let fake = host();
        let moved = event("deal.change.step", &[("did", "4"), ("stepNew", "60")]);
        assert!(matches!(StepTasks.handle(moved, &fake.host()), Ok(Reply::Skip { .. })));
        assert_eq!(fake.calls(), []);
    }

    #[test]
    fn the_day_is_the_offices_day_not_greenwichs() {
        let late_evening = 1_764_100_000_000 - 1_764_100_000_000 % 86_400_000 + 22 * 3_600_000;
        assert_eq!(date(late_evening, 0, 0).as_deref(), Ok("2025-11-25"));
        assert_eq!(date(late_evening, 3, 0).as_deref(), Ok("2025-11-26"));
    }
}
