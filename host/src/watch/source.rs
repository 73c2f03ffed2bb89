//! Where the lists are read: the CRM, or what stands in for it in a test.

use serde_json::{Map, Value};

use super::lists::List;
use crate::crm;
use crate::crm::stranger::Stranger;

/// One record as a list or a look at it shows it.
pub(super) type Row = Map<String, Value>;

/// What can be read.
pub(super) trait Source: Send {
    /// One page of a list; an empty one behind its end.
    fn page(&mut self, list: List, page: u32) -> impl Future<Output = Result<Vec<Row>, crm::Error>> + Send;
    /// An enquiry as it is, with whom it is given to; nothing where it can't be seen.
    fn lead(&mut self, id: &str) -> impl Future<Output = Result<Option<Row>, crm::Error>> + Send;
}

impl Source for crm::Client {
    async fn page(&mut self, list: List, page: u32) -> Result<Vec<Row>, crm::Error> {
        let arguments = [("offset".to_owned(), page.into())].into_iter().collect();
        let answer = match self.call(list.method(), "list", &arguments).await {
            Ok(answer) => answer,
            // An empty list of leads is refused as not found (measured).
            Err(crm::Error::Refused { code: Some(code), .. }) if code == "404" => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let rows = match answer {
            Value::Array(rows) => rows,
            Value::Object(mut body) => match body.remove("data") {
                Some(Value::Array(rows)) => rows,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        Ok(rows.into_iter().filter_map(|row| if let Value::Object(row) = row { Some(row) } else { None }).collect())
    }

    async fn lead(&mut self, id: &str) -> Result<Option<Row>, crm::Error> {
        let arguments = [("id".to_owned(), id.into())].into_iter().collect();
        match self.call("lead", "info", &arguments).await {
            // An unknown number gets a nearly empty record (measured).
            Ok(mut answer) => match answer.get_mut("data").map(Value::take) {
                Some(Value::Object(row)) if row.contains_key("iduser") => Ok(Some(row)),
                _ => Ok(None),
            },
            // What one record breaks must not keep the others from being told.
            Err(crm::Error::Refused { .. } | crm::Error::BadAnswer(_) | crm::Error::NotTheApi(Stranger::Php(_))) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
