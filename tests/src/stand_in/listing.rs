//! What the list actions share: order, pages of 200, choice of columns.
//!
//! - `limit` is ignored, `offset` is a page number, a fraction of it counts records.
//! - The order has no tie-breaker beyond the order of insertion.
//! - A bad order column or offset ends in a PHP fatal error, as in the CRM.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::crm::Reply;
use super::php;
use super::row::{Params, Row};

/// Records a page.
const PAGE: f64 = 200.0;

/// Sorts by the wanted column, newest first unless asked otherwise.
pub(super) fn order(rows: &mut [&Row], params: &Params, known: &[&str], default: &str) -> Result<(), Reply> {
    let wanted = params.text("order").unwrap_or_else(|| default.to_owned());
    let column = if wanted == "date_change" { "date_edit" } else { wanted.as_str() };
    if !known.contains(&column) {
        return Err(Reply::fatal(&format!(
            "Uncaught mysqli_sql_exception: Unknown column '{wanted}' in 'ORDER BY' in /var/www/crm/vendor/colshrapnel/safemysql/safemysql.class.php:466"
        )));
    }
    let oldest_first = params.text("first").as_deref() == Some("old");
    rows.sort_by(|left, right| {
        let ascending = compare(left.get(column), right.get(column));
        if oldest_first { ascending } else { ascending.reverse() }
    });
    Ok(())
}

/// Cuts one page out of the sorted records.
pub(super) fn page<'a>(rows: &[&'a Row], params: &Params) -> Result<Vec<&'a Row>, Reply> {
    let offset = match params.value("offset") {
        None | Some(Value::Null) => 0.0,
        Some(value) => php::text_of(value).trim().parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(|| {
            Reply::fatal("Uncaught TypeError: Unsupported operand types: string * int in /var/www/crm/developer/v2/client.php:340")
        })?,
    };
    let start = (offset.max(0.0) * PAGE).floor();
    let skipped = rows.iter().enumerate().skip_while(|(index, _)| (*index as f64) < start);
    Ok(skipped.map(|(_, row)| *row).take(PAGE as usize).collect())
}

/// The answer of a list that counts: without records it has no `data` at all.
pub(super) fn counted(data: Vec<Value>, count: usize) -> Reply {
    if data.is_empty() {
        return Reply::json(&json!({ "count": count }));
    }
    Reply::json(&json!({ "data": data, "count": count }))
}

/// The answer of a list that doesn't count: without records it is an empty array.
pub(super) fn uncounted(data: Vec<Value>) -> Reply {
    if data.is_empty() {
        return Reply::json(&json!([]));
    }
    Reply::json(&json!({ "data": data }))
}

/// Whether a record has all the values of a `filter`.
pub(super) fn fits(row: &Row, filter: &Map<String, Value>, columns: &[&str]) -> bool {
    filter.iter().filter(|(name, _)| columns.contains(&name.as_str())).all(|(name, wanted)| match wanted {
        Value::Array(values) => values.iter().any(|value| php::text_of(value) == row.text(name)),
        scalar => php::text_of(scalar) == row.text(name),
    })
}

/// Whether a date or time lies between `dateStart` and `dateEnd`, compared as text like the CRM's own query.
pub(super) fn within(moment: &str, start: Option<&str>, end: Option<&str>) -> bool {
    start.is_none_or(|start| moment >= start) && end.is_none_or(|end| moment <= end)
}

fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => php::float_of(left).total_cmp(&php::float_of(right)),
        _ => php::text_of(left).cmp(&php::text_of(right)),
    }
}
