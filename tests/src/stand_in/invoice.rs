//! The invoice actions of the method `deal`.
//!
//! - Only a deal with a specification can be invoiced; without one PHP divides by zero.
//! - A part payment splits the invoice: the rest becomes a new one.
//! - The event of a new invoice names the deal's responsible user as its author, not the caller.

use serde_json::{Value, json};

use super::crm::{Crm, Handled, Reply};
use super::event::{Actor, Event};
use super::php::{self, Field};
use super::row::{Params, Row};
use super::{clock, deal};

/// Days until a new invoice is due when no date is given.
const DUE_DAYS: i32 = 5;

/// Sums closer than this are the same money.
const CENT: f64 = 0.005;

impl Crm {
    pub(super) fn invoice_templates() -> Reply {
        Reply::json(&json!({ "result": "Success", "data": [
            { "id": 2, "title": "Базовый шаблон", "file": "invoice.tpl", "typeid": 4 },
            { "id": 7, "title": "Счет с QRcode", "file": "invoice_qr.tpl", "typeid": 4 },
        ] }))
    }

    /// An unknown id is not an error: the answer is an empty record.
    pub(super) fn invoice_info(&self, params: &Params) -> Reply {
        let invoice = self.find_invoice(params).cloned().unwrap_or_default();
        Reply::json(&json!({ "data": self.invoice_entry(&invoice) }))
    }

    pub(super) fn invoice_entry(&self, invoice: &Row) -> Value {
        json!({
            "crid": invoice.int("crid"), "invoice": invoice.get("invoice"), "datum": invoice.get("datum"), "datum_credit": invoice.get("datum_credit"),
            "invoice_date": invoice.get("invoice_date"), "contractnum": Value::Null, "summa": php::number(invoice.amount("summa")),
            "nds": php::number(invoice.amount("nds")), "clid": invoice.int("clid"), "pid": 0, "did": invoice.int("did"), "tip": invoice.get("tip"),
            "rs": invoice.int("rs"), "iduser": invoice.int("iduser"), "do": invoice.get("do"), "suffix": "", "valuta": "р.",
            "template": { "id": 2, "title": "Базовый шаблон", "file": "invoice.tpl", "typeid": 4 },
            "idcurrency": 0, "currency": [], "idcourse": 0, "course": [], "signer": Value::Null,
        })
    }

    pub(super) fn invoice_add(&mut self, actor: Actor, params: &Params) -> Handled {
        if params.text("did").is_none() {
            return Err(Reply::syntax_fatal());
        }
        let found = self.deals.get(params.int("did")).filter(|deal| self.sees(actor, deal)).cloned();
        // This action's refusal differs from the others: no `result`, no full stop.
        let deal = found.ok_or_else(|| Reply::bare_error(403, deal::NOT_FOUND.trim_end_matches('.')))?;
        let did = deal.int("did");
        if !self.positions.rows().any(|position| position.int("did") == did) {
            return Err(Reply::fatal(
                "Uncaught DivisionByZeroError: Division by zero in /var/www/crm/developer/v2/deal.php:1334",
            ));
        }
        let invoiced: f64 = self
            .invoices
            .rows()
            .filter(|invoice| invoice.int("did") == did)
            .map(|invoice| invoice.amount("summa"))
            .sum();
        let rest = deal.amount("kol") - invoiced;
        if rest < CENT {
            return Err(Reply::bare_error(406, "Уже выставлены все возможные счета"));
        }
        let sum = params.value("summa").map_or(rest, php::float_of);
        let number = match params.clean("invoice", Field::Plain).filter(|number| number != "auto") {
            Some(number) => number,
            None => {
                self.invoice_number += 1;
                self.invoice_number.to_string()
            }
        };
        let iduser = deal.int("iduser");
        let row = Row::from(json!({
            "crid": 0, "invoice": number, "datum": clock::minute_stamp(), "datum_credit": params.text("date.plan").unwrap_or_else(|| clock::day(DUE_DAYS)),
            "invoice_date": Value::Null, "summa": php::number(sum), "nds": php::number(params.value("nds").map_or(0.0, php::float_of)),
            "clid": deal.int("clid"), "did": did, "tip": params.column("tip"), "rs": params.int("rs"), "iduser": iduser, "do": "no",
        }));
        let id = self.invoices.add("crid", row);
        let event = Event::new("invoice.add", actor)
            .with("did", did)
            .with("autor", if actor.browser { actor.iduser } else { iduser })
            .with("user", iduser)
            .with("userUID", self.uid_of(iduser))
            .with("id", id)
            .with("summa", php::short_float(sum))
            .with("invoice", number.clone());
        Ok(Reply::json(
            &json!({ "result": "Успешно;Счет добавлен в платежи", "data": { "id": id, "invoice": number } }),
        )
        .about(id)
        .fires(event))
    }

    pub(super) fn invoice_do(&mut self, actor: Actor, params: &Params) -> Handled {
        if params.text("id").is_none() && params.text("invoice").is_none() {
            return Err(Reply::syntax_fatal());
        }
        let found = self.find_invoice(params).cloned();
        let invoice = found.ok_or_else(|| Reply::bare_error(403, "Счет по ID или Номеру не найден"))?;
        let (id, planned) = (invoice.int("crid"), invoice.amount("summa"));
        let paid = params.value("summa").map_or(planned, php::float_of);
        let rest = if planned - paid > CENT { planned - paid } else { 0.0 };
        if let Some(stored) = self.invoices.get_mut(id) {
            stored.set("do", "on");
            stored.set("summa", php::number(paid));
            stored.set("invoice_date", params.text("date.do").unwrap_or_else(|| clock::day(0)));
        }
        let money = |amount: f64| php_money(amount);
        let mut text = format!("Внесена оплата по графику {} р.<br>", money(paid));
        let mut split = None;
        if rest > 0.0 {
            let mut other = invoice.clone();
            other.set("summa", php::number(rest));
            split = Some(self.invoices.add("crid", other));
            text.push_str(&format!(
                "Поступившая оплата отличается от планируемой.<br>Добавлен дополнительный платеж {} р.<br>",
                money(rest)
            ));
        }
        text.push_str(&format!("На р/с Основной расчетный счет внесена оплата в размере {} р.", money(paid)));
        let mut answer = json!({ "result": "Успешно", "data": text });
        if let (Some(split), Some(root)) = (split, answer.as_object_mut()) {
            root.insert("newdata".to_owned(), Value::from(split));
        }
        let event = Event::new("invoice.doit", actor)
            .with("id", id)
            .with("did", invoice.int("did"))
            .with("autor", actor.iduser)
            .with("userUID", self.uid_of(invoice.int("iduser")))
            .with("invoice", invoice.text("invoice"))
            .with("summa", php::short_float(paid))
            .with("summaNew", php::short_float(rest));
        Ok(Reply::json(&answer).about(id).fires(event))
    }

    fn find_invoice(&self, params: &Params) -> Option<&Row> {
        if params.text("id").is_some() {
            return self.invoices.get(params.int("id"));
        }
        let number = params.text("invoice")?;
        self.invoices.rows().find(|invoice| invoice.text("invoice") == number)
    }
}

/// `5 000,00`: two decimals, a comma, thousands apart.
fn php_money(amount: f64) -> String {
    let cents = (amount * 100.0).round() as i64;
    let whole = (cents / 100).to_string();
    let grouped: Vec<String> =
        whole.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    format!("{},{:02}", grouped.join(" "), cents % 100)
}
