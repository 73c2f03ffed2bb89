//! Tables for people: columns as wide as they must be, the last as wide as it likes.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::text;

/// Characters of a cell that is not the last.
const WIDEST: usize = 40;

pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|word| word.to_uppercase()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The whole table; `nothing` where there is no row.
    pub(super) fn print(&self, nothing: &str) {
        if self.rows.len() == 1 {
            outln!("{nothing}");
            return;
        }
        out!("{}", self.text());
    }

    fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let widths = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            widths.max().unwrap_or(0).min(WIDEST)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let last = column + 1 == row.len();
                let cell = if last { cell.clone() } else { cut(cell) };
                let missing = widths.get(column).copied().unwrap_or(0).saturating_sub(cell.chars().count());
                line.push_str(&cell);
                if !last {
                    line.push_str(&" ".repeat(missing + 2));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn cut(cell: &str) -> String {
    if cell.chars().count() <= WIDEST {
        cell.to_owned()
    } else {
        cell.chars().take(WIDEST - 1).chain(['…']).collect()
    }
}

/// What comes from outside stays in its line; `out` shows the rest of what nobody sees.
pub(super) fn printable(text: &str) -> String {
    text::visible_line(&text.replace('\n', " ")).into_owned()
}

/// A text of a JSON object; empty where there is none.
pub(super) fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// A list of a JSON object.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Milliseconds since 1970-01-01 UTC as this machine's time.
pub(super) fn time(value: &Value, key: &str) -> String {
    let at = value.get(key).and_then(Value::as_i64).and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// Reads a time: `2h` (ago), `2026-01-31T12:00` (of this machine), `2026-01-31`, or with a zone.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no time: write `2h` for two hours ago, or `2026-01-31T12:00`");
    let now = Timestamp::now();
    let (digits, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    if let (1.., Ok(count)) = (seconds, digits.parse::<i64>()) {
        let ago = count.checked_mul(seconds * 1_000).ok_or_else(wrong)?;
        return Ok(now.as_millisecond().saturating_sub(ago));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.to_datetime(jiff::civil::Time::midnight())));
    let zoned = civil.ok().and_then(|civil| civil.to_zoned(TimeZone::system()).ok()).ok_or_else(wrong)?;
    Ok(zoned.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stays_in_line_and_nothing_in_it_moves_the_cursor() {
        let mut table = Table::new(&["name", "reason"]);
        table.row(["Ромашка".to_owned(), "a\nb\u{1b}[31m".to_owned()]);
        table.row(["x".repeat(50), String::new()]);
        let expected =
            format!("NAME{}REASON\nРомашка{}a b\\u001b[31m\n{}…\n", " ".repeat(38), " ".repeat(35), "x".repeat(39));
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn a_time_is_read_as_people_write_it() {
        let now = Timestamp::now().as_millisecond();
        let hours = now - parse_time("2h").unwrap();
        assert!((7_200_000..7_260_000).contains(&hours), "{hours}");
        assert_eq!(parse_time("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(parse_time("2026-01-31").is_ok() && parse_time("2026-01-31T12:00").is_ok());
        for wrong in ["", "h", "2x", "yesterday", "99999999999999999999d", "д"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
