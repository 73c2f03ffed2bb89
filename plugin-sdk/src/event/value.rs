//! The values that events carry besides numbers and text.

use std::fmt;

use serde_json::{Map, Value};

/// An amount of money as the CRM wrote it: `5000`, `1.5`, `100.00`. The events do not say the currency.
///
/// Kept as text, because a binary fraction can't hold most of the amounts that people write.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Amount;
/// let amount = Amount::from("1250.5");
/// assert_eq!(amount.as_minor(), Some(125_050));
/// assert_eq!(amount.to_string(), "1250.5");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Amount(String);

impl Amount {
    /// The text as the CRM sent it.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Amount::from("100.00").as_str(), "100.00");
    /// ```
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest binary fraction, for showing and comparing; `None` where the text is not a number.
    /// Sums belong into [`Amount::as_minor`].
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Amount;
    /// assert_eq!(Amount::from("0.25").as_f64(), Some(0.25));
    /// assert_eq!(Amount::from("много").as_f64(), None);
    /// ```
    pub fn as_f64(&self) -> Option<f64> {
        let (negative, whole, fraction) = self.parts()?;
        format!("{}{whole}.{fraction}", if negative { "-" } else { "" }).parse().ok()
    }

    /// The amount in hundredths (kopecks), rounded half away from zero; `None` where the text is not a number, or the
    /// result does not fit.
    ///
    /// A comma counts as the point, and spaces between the digits don't count: people write amounts so.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Amount;
    /// assert_eq!(Amount::from("5000").as_minor(), Some(500_000));
    /// assert_eq!(Amount::from("-1 000,5").as_minor(), Some(-100_050));
    /// assert_eq!(Amount::from("0.005").as_minor(), Some(1));
    /// assert_eq!(Amount::from("5000 руб.").as_minor(), None);
    /// ```
    pub fn as_minor(&self) -> Option<i64> {
        let (negative, whole, fraction) = self.parts()?;
        let mut digits =
            fraction.bytes().map(|digit| i64::from(digit.saturating_sub(b'0'))).chain(std::iter::repeat(0));
        let (tens, ones, rest) = (digits.next()?, digits.next()?, digits.next()?);
        let minor = whole.parse::<i64>().ok()?.checked_mul(100)?;
        let minor = minor.checked_add(tens * 10 + ones + i64::from(rest >= 5))?;
        Some(if negative { -minor } else { minor })
    }

    /// Sign, digits before the point (at least one) and after it.
    fn parts(&self) -> Option<(bool, String, String)> {
        let text: String = self.0.chars().filter(|letter| !letter.is_whitespace()).collect();
        let (negative, text) = text.strip_prefix('-').map_or((false, text.as_str()), |rest| (true, rest));
        let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let sound = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
        sound.then(|| (negative, format!("0{whole}"), fraction.to_owned()))
    }
}

impl From<String> for Amount {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Amount {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The new values of a record, by the CRM's own field names: what an event carries as `newparam`.
///
/// Every scalar is text. What stands here was sent with the change; whether it differs from before, and whether it was
/// stored as it stands, only the record itself tells (titles, for one, are rewritten on save).
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{EventData, testing};
/// use serde_json::{Value, json};
///
/// let Value::Object(fields) = json!({
///     "pid": "1",
///     "newparam": { "mob": "89160000000", "tel": "", "date_edit": "2026-11-23 22:24:38", "editor": "1" },
/// }) else { unreachable!() };
/// let EventData::PersonEdit(edit) = testing::event_with("person.edit", fields).data()? else { unreachable!() };
/// assert_eq!(edit.newparam.names().collect::<Vec<_>>(), ["mob", "tel"]);
/// assert_eq!(edit.newparam.text("mob"), Some("89160000000"));
/// // The field was emptied.
/// assert_eq!(edit.newparam.text("tel"), Some(""));
/// assert_eq!(edit.newparam.text("mail"), None);
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes(
    /// All of them.
    pub Map<String, Value>,
);

impl Changes {
    /// The names of the fields that changed, in the CRM's order, without the CRM's own notes on who saved the record
    /// and when (`date_edit`, `editor`), which come with every save.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Changes::default().names().count(), 0);
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(|name| !matches!(*name, "date_edit" | "editor"))
    }

    /// Whether the field was sent with the change.
    ///
    /// # Example
    /// ```
    /// assert!(!salesman_plugin_sdk::Changes::default().contains("mob"));
    /// ```
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The new text of a field: empty where it was emptied, `None` where it was not sent or holds a list.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Changes::default().text("mob"), None);
    /// ```
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The new value of a field as a whole number; `None` where it was not sent or is not one.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::Changes;
    /// let changes = Changes([("iduser".to_string(), "2".into())].into_iter().collect());
    /// assert_eq!(changes.number("iduser"), Some(2));
    /// ```
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// One record that passed to another employee.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::{EventData, Reassigned, testing};
///
/// let event = testing::event("deal.change.user", &[("did", "4"), ("olduser", "1"), ("newuser", "2")]);
/// let EventData::DealChangeUser(change) = event.data()? else { unreachable!() };
/// assert_eq!(change.records(), [Reassigned { id: 4, title: None, olduser: Some(1) }]);
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassigned {
    /// The client (`clid`) or the deal (`did`).
    pub id: u64,
    /// Its title; only mass changes carry it.
    pub title: Option<String>,
    /// Who was responsible before.
    pub olduser: Option<u64>,
}

impl super::ClientChangeUser {
    /// The clients that changed hands: one after a single change, all of them after a mass change.
    ///
    /// # Example
    /// ```
    /// use salesman_plugin_sdk::{EventData, testing};
    /// let event = testing::event("client.change.user", &[("clid", "1"), ("olduser", "2"), ("newuser", "4")]);
    /// let EventData::ClientChangeUser(change) = event.data()? else { unreachable!() };
    /// assert_eq!(change.records().len(), 1);
    /// # Ok::<(), salesman_plugin_sdk::Error>(())
    /// ```
    pub fn records(&self) -> Vec<Reassigned> {
        records(self.clid, self.olduser, &self.info)
    }
}

impl super::DealChangeUser {
    /// The deals that changed hands: one after a single change, all of them after a mass change.
    ///
    /// # Example
    /// See [`Reassigned`].
    pub fn records(&self) -> Vec<Reassigned> {
        records(self.did, self.olduser, &self.info)
    }
}

fn records(id: Option<u64>, olduser: Option<u64>, info: &[Reassigned]) -> Vec<Reassigned> {
    match id {
        Some(id) => vec![Reassigned { id, title: None, olduser }],
        None => info.to_vec(),
    }
}
