//! What an administrator of the CRM does: switches, and rows put into the tables past pages and API.

use serde_json::Value;

use super::row::Row;
use super::{StandIn, lock};

impl StandIn {
    /// Whether PHP 8 runs the CRM from now on: the API's answers about contacts are fatal errors, after the write.
    pub fn set_php8(&self, php8: bool) {
        lock(&self.shared.crm).php8 = php8;
    }

    /// Switches a field of clients off: it is neither shown nor written.
    pub fn switch_off(&self, field: &str) {
        lock(&self.shared.crm).switched_off.insert(field.to_owned());
    }

    /// Switches the number and the reason of an application on, in deals.
    pub fn switch_applications_on(&self) {
        lock(&self.shared.crm).applications = true;
    }

    /// Puts a row into the table of this method as it stands, whatever the CRM would make of it; returns its number.
    pub fn put_row(&self, method: &str, row: Value) -> i64 {
        let mut crm = lock(&self.shared.crm);
        let (table, key) = match method {
            "client" => (&mut crm.clients, "clid"),
            "person" => (&mut crm.persons, "pid"),
            "deal" => (&mut crm.deals, "did"),
            _ => (&mut crm.tasks, "tid"),
        };
        table.add(key, Row::from(row))
    }
}
