//! Users at work in the CRM's pages, and records that exist without anybody having been told.
//!
//! - A page save runs the same handlers as the REST side, holds a worker, and waits for every target of its events.
//! - Its events name the user as author and carry the session cookie.
//! - Seeding stores silently; everything else fires what the page would fire.

use std::sync::Arc;

use serde_json::{Value, json};

use super::crm::Reply;
use super::event::{Actor, Event};
use super::row::Params;
use super::{Shared, StandIn, hooks, lock, seed};

impl StandIn {
    /// Stores a client silently; `fields` as for the action `add`.
    ///
    /// # Errors
    /// When the CRM would refuse it.
    pub fn seed_client(&self, fields: Value) -> anyhow::Result<i64> {
        self.seed("client", "add", fields)
    }

    /// Stores a contact silently; `fields` as for the action `add`.
    ///
    /// # Errors
    /// When the CRM would refuse it.
    pub fn seed_person(&self, fields: Value) -> anyhow::Result<i64> {
        self.seed("person", "add", fields)
    }

    /// Stores a deal silently; `fields` as for the action `add`.
    ///
    /// # Errors
    /// When the CRM would refuse it.
    pub fn seed_deal(&self, fields: Value) -> anyhow::Result<i64> {
        self.seed("deal", "add", fields)
    }

    /// Stores a task silently; `fields` as for the action `add`.
    ///
    /// # Errors
    /// When the CRM would refuse it.
    pub fn seed_task(&self, fields: Value) -> anyhow::Result<i64> {
        self.seed("task", "add", fields)
    }

    /// Stores an enquiry silently; `fields` as for the action `add`.
    ///
    /// # Errors
    /// When the CRM would refuse it.
    pub fn seed_lead(&self, fields: Value) -> anyhow::Result<i64> {
        self.seed("lead", "add", fields)
    }

    /// A user gives an enquiry to another on its page, which tells nobody.
    ///
    /// # Errors
    /// When there is no such enquiry.
    pub fn ui_give_lead(&self, id: i64, user: i64) -> anyhow::Result<()> {
        let mut crm = lock(&self.shared.crm);
        let lead = crm.leads.get_mut(id).ok_or_else(|| anyhow::anyhow!("no lead {id}"))?;
        lead.set("iduser", user);
        lead.set("status", 1);
        Ok(())
    }

    /// A user adds a client on the page.
    ///
    /// # Errors
    /// When the CRM would refuse it.
    pub async fn ui_add_client(&self, fields: Value, user: i64) -> anyhow::Result<i64> {
        self.page("client", "add", fields, user).await
    }

    /// A user edits a client; only the given fields are on the form.
    ///
    /// # Errors
    /// When there is no such client.
    pub async fn ui_edit_client(&self, clid: i64, fields: Value, user: i64) -> anyhow::Result<()> {
        self.page("client", "update", with_id(fields, "clid", clid), user).await.map(drop)
    }

    /// A user gives a client to another user.
    ///
    /// # Errors
    /// When there is no such client.
    pub async fn ui_change_client_user(
        &self,
        clid: i64,
        new_user: i64,
        comment: &str,
        user: i64,
    ) -> anyhow::Result<()> {
        let old = {
            let mut crm = lock(&self.shared.crm);
            let client = crm.clients.get_mut(clid).ok_or_else(|| anyhow::anyhow!("no client {clid}"))?;
            let old = client.int("iduser");
            client.set("iduser", new_user);
            old
        };
        let args = json!({ "clid": clid, "autor": user, "olduser": old, "newuser": new_user, "comment": comment });
        self.fire("client.change.user", args, user).await;
        Ok(())
    }

    /// A user deletes a client.
    ///
    /// # Errors
    /// When there is no such client, or it has deals.
    pub async fn ui_delete_client(&self, clid: i64, user: i64) -> anyhow::Result<()> {
        self.page("client", "delete", json!({ "clid": clid }), user).await.map(drop)
    }

    /// A user adds a contact.
    ///
    /// # Errors
    /// When the name is missing.
    pub async fn ui_add_person(&self, fields: Value, user: i64) -> anyhow::Result<i64> {
        self.page("person", "add", fields, user).await
    }

    /// A user adds a deal.
    ///
    /// # Errors
    /// When the client or the title is missing.
    pub async fn ui_add_deal(&self, fields: Value, user: i64) -> anyhow::Result<i64> {
        self.page("deal", "add", fields, user).await
    }

    /// A user edits a deal; unlike the REST side, the page keeps the contacts.
    ///
    /// # Errors
    /// When there is no such deal.
    pub async fn ui_edit_deal(&self, did: i64, fields: Value, user: i64) -> anyhow::Result<()> {
        self.page("deal", "update", with_id(fields, "did", did), user).await.map(drop)
    }

    /// A user moves a deal to a step, named by its percent.
    ///
    /// # Errors
    /// When there is no such deal, or it is at that step already.
    pub async fn ui_move_deal(&self, did: i64, step: &str, user: i64) -> anyhow::Result<()> {
        self.page("deal", "change.step", json!({ "did": did, "step": step }), user).await.map(drop)
    }

    /// A user closes a deal with a status, named by its title.
    ///
    /// # Errors
    /// When there is no such deal or status, or the deal is closed already.
    pub async fn ui_close_deal(&self, did: i64, status: &str, sum: f64, user: i64) -> anyhow::Result<()> {
        let fields = json!({ "did": did, "status_close": status, "kol_fact": sum });
        self.page("deal", "change.close", fields, user).await.map(drop)
    }

    /// A user gives a deal to another user.
    ///
    /// # Errors
    /// When there is no such deal or user.
    pub async fn ui_change_deal_user(&self, did: i64, new_user: i64, comment: &str, user: i64) -> anyhow::Result<()> {
        self.page("deal", "change.user", json!({ "did": did, "iduser": new_user, "reason": comment }), user)
            .await
            .map(drop)
    }

    /// A user invoices a deal, which needs a specification.
    ///
    /// # Errors
    /// When the CRM would refuse it.
    pub async fn ui_add_invoice(&self, fields: Value, user: i64) -> anyhow::Result<i64> {
        self.page("deal", "invoice.add", fields, user).await
    }

    /// A user enters a payment.
    ///
    /// # Errors
    /// When there is no such invoice.
    pub async fn ui_pay_invoice(&self, id: i64, sum: f64, user: i64) -> anyhow::Result<()> {
        self.page("deal", "invoice.do", json!({ "id": id, "summa": sum }), user).await.map(drop)
    }

    /// A user adds a task.
    ///
    /// # Errors
    /// When the title is missing.
    pub async fn ui_add_task(&self, fields: Value, user: i64) -> anyhow::Result<i64> {
        self.page("task", "add", fields, user).await
    }

    /// A user ticks a task off.
    ///
    /// # Errors
    /// When there is no such task.
    pub async fn ui_do_task(&self, id: i64, user: i64) -> anyhow::Result<()> {
        self.page("task", "doit", json!({ "id": id }), user).await.map(drop)
    }

    /// A user writes an activity; only the page tells about it, the REST side doesn't.
    ///
    /// # Errors
    /// When the text is missing.
    pub async fn ui_add_history(&self, fields: Value, user: i64) -> anyhow::Result<i64> {
        let id = self.page("history", "add", fields, user).await?;
        self.fire("history.add", json!({ "id": id, "autor": user }), user).await;
        Ok(id)
    }

    /// Fires any event as a page would, with any arguments and no record behind it.
    pub async fn fire(&self, event: &str, args: Value, user: i64) {
        let event = Event {
            name: event.to_owned(),
            args: args.as_object().cloned().unwrap_or_default(),
            actor: user,
            browser: true,
        };
        let Ok(_worker) = self.shared.workers.acquire().await else { return };
        hooks::fire(&self.shared, event).await;
    }

    /// Stores the records of a demo.
    pub(super) fn seed_demo(&self) -> anyhow::Result<()> {
        let kinds = [("client", seed::demo_clients()), ("person", seed::demo_persons()), ("deal", seed::demo_deals())];
        for (method, records) in kinds {
            for record in records {
                self.seed(method, "add", record)?;
            }
        }
        Ok(())
    }

    fn seed(&self, method: &str, action: &str, fields: Value) -> anyhow::Result<i64> {
        succeed(act(&self.shared, Actor::browser(1), method, action, &fields)).map(|reply| reply.id)
    }

    async fn page(&self, method: &str, action: &str, fields: Value, user: i64) -> anyhow::Result<i64> {
        let _worker = self.shared.workers.acquire().await?;
        let reply = succeed(act(&self.shared, Actor::browser(user), method, action, &fields))?;
        for event in reply.events {
            hooks::fire(&self.shared, event).await;
        }
        Ok(reply.id)
    }
}

fn act(shared: &Arc<Shared>, actor: Actor, method: &str, action: &str, fields: &Value) -> Option<Reply> {
    lock(&shared.crm).handle(actor, method, action, &Params::of_form(fields))
}

fn succeed(reply: Option<Reply>) -> anyhow::Result<Reply> {
    let reply = reply.ok_or_else(|| anyhow::anyhow!("no such method"))?;
    anyhow::ensure!(reply.ok, "the CRM refused: {}", reply.body);
    Ok(reply)
}

fn with_id(mut fields: Value, name: &str, id: i64) -> Value {
    if let Some(map) = fields.as_object_mut() {
        map.insert(name.to_owned(), Value::from(id));
    }
    fields
}
