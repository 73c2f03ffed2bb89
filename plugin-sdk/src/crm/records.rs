//! The records of the CRM, with the fields of a CRM as it is installed.
//!
//! - Fields bear the CRM's own names, in lower case: that is what its documentation and its events speak of.
//! - Built from real answers of version 2025.4; where an action was never seen with a record, it says so.
//! - Whatever has no field here is in `extra`, by its own name: the fields that an account defines, and blocks that a call
//!   asked for. Nothing is lost.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::{Amount, Error, Result};

/// A deal, as `deal.list` answers it (measured on version 2025.4). `deal.info` does not fill one: it answers null for `did`.
///
/// Missing, null, empty, zero dates and references of 0 are `None`. Dates are `YYYY-MM-DD` in the account's time zone. Money
/// is an [`Amount`]: the digits as they came, in the deal's currency, which the list does not name.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Deal;
/// use serde_json::json;
///
/// let deal = Deal::try_from(json!({ "did": 1, "kol": 2501, "datum_plan": "2026-12-03", "close": "no", "input1": "VIP" }))?;
/// assert_eq!((deal.did, deal.close, deal.datum_plan.as_deref()), (1, Some(false), Some("2026-12-03")));
/// assert_eq!(deal.extra["input1"], "VIP");
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Deal {
    /// The deal's number.
    pub did: u64,
    /// Its number in another system.
    pub uid: Option<String>,
    /// Its title, as the CRM rewrote it on save.
    pub title: Option<String>,
    /// The client.
    pub clid: Option<u64>,
    /// The client's title (`clientTitle`).
    pub client_title: Option<String>,
    /// The client who pays.
    pub payer: Option<u64>,
    /// That client's title (`payerTitle`).
    pub payer_title: Option<String>,
    /// The responsible employee.
    pub iduser: Option<u64>,
    /// That employee's login.
    pub user: Option<String>,
    /// That employee's name (`userTitle`).
    pub user_title: Option<String>,
    /// The step, in percent; `None` where the deal stands on none, for which the CRM sends 0.
    pub step: Option<u64>,
    /// The step's number (`stepID`).
    pub step_id: Option<u64>,
    /// The step's description (`stepTitle`).
    pub step_title: Option<String>,
    /// The direction's number (`directionID`).
    pub direction_id: Option<u64>,
    /// The direction's title.
    pub direction: Option<String>,
    /// The number of the deal's type (`tipID`).
    pub tip_id: Option<u64>,
    /// The title of the deal's type.
    pub tip: Option<String>,
    /// When it was made; a date without a time.
    pub datum: Option<String>,
    /// When it was changed last; a date without a time.
    pub datum_izm: Option<String>,
    /// When it is planned to close.
    pub datum_plan: Option<String>,
    /// When its term begins.
    pub datum_start: Option<String>,
    /// When its term ends.
    pub datum_end: Option<String>,
    /// Whether it is closed.
    pub close: Option<bool>,
    /// When it was closed.
    pub datum_close: Option<String>,
    /// The title of its result; the CRM sends `false` while there is none.
    pub status_close: Option<String>,
    /// What was written when it was closed.
    pub des_fact: Option<String>,
    /// The planned sum.
    pub kol: Option<Amount>,
    /// The planned margin.
    pub marga: Option<Amount>,
    /// The sum that it was closed with; 0 while it is open.
    pub kol_fact: Option<Amount>,
    /// The address.
    pub adres: Option<String>,
    /// The description.
    pub content: Option<String>,
    /// Every other field, by the CRM's name.
    pub extra: Map<String, Value>,
}

impl TryFrom<Value> for Deal {
    type Error = Error;

    fn try_from(record: Value) -> Result<Self> {
        let (did, mut fields) = Fields::begin("deal", "did", record)?;
        let tells_step = fields.has("stepID");
        let step_id = fields.reference("stepID")?;
        Ok(Self {
            did,
            uid: fields.text("uid")?,
            title: fields.text("title")?,
            clid: fields.reference("clid")?,
            client_title: fields.text("clientTitle")?,
            payer: fields.reference("payer")?,
            payer_title: fields.text("payerTitle")?,
            iduser: fields.reference("iduser")?,
            user: fields.text("user")?,
            user_title: fields.text("userTitle")?,
            // 0 is also the percentage that a first step may have: only the number tells.
            step: fields.number("step")?.filter(|_| step_id.is_some() || !tells_step),
            step_id,
            step_title: fields.text("stepTitle")?,
            direction_id: fields.reference("directionID")?,
            direction: fields.text("direction")?,
            tip_id: fields.reference("tipID")?,
            tip: fields.text("tip")?,
            datum: fields.date("datum")?,
            datum_izm: fields.date("datum_izm")?,
            datum_plan: fields.date("datum_plan")?,
            datum_start: fields.date("datum_start")?,
            datum_end: fields.date("datum_end")?,
            close: fields.flag("close")?,
            datum_close: fields.date("datum_close")?,
            status_close: fields.text("status_close")?,
            des_fact: fields.text("des_fact")?,
            kol: fields.amount("kol")?,
            marga: fields.amount("marga")?,
            kol_fact: fields.amount("kol_fact")?,
            adres: fields.text("adres")?,
            content: fields.text("content")?,
            extra: fields.rest(),
        })
    }
}

/// A client, as `client.list` and `client.info` answer it (measured on version 2025.4).
///
/// The two call several things by different names; here they are one. Missing, null, empty, zero dates and references of 0
/// are `None`. Times are `YYYY-MM-DD HH:MM:SS` in the account's time zone.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Client;
/// use serde_json::json;
///
/// let listed = Client::try_from(json!({ "clid": 1, "clientpath": 6, "clientpathTitle": "Сайт" }))?;
/// let read = Client::try_from(json!({ "clid": 1, "clientpath": "Сайт" }))?;
/// assert_eq!((listed.clientpath, read.clientpath), (Some(6), None));
/// assert_eq!(listed.clientpath_title, read.clientpath_title);
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Client {
    /// The client's number.
    pub clid: u64,
    /// Its number in another system.
    pub uid: Option<String>,
    /// What it is (`type`): `client`, `person`, `concurent`, `contractor`, `parnter` (the CRM's own spelling).
    pub kind: Option<String>,
    /// Its title, as the CRM rewrote it on save.
    pub title: Option<String>,
    /// The responsible employee.
    pub iduser: Option<u64>,
    /// That employee's login.
    pub user: Option<String>,
    /// The category's number.
    pub idcategory: Option<u64>,
    /// The category's title (`idcategoryTitle`, `categoryName`); `None` where there is no category.
    pub category: Option<String>,
    /// The client that this one belongs to; only from `client.list`.
    pub head_clid: Option<u64>,
    /// That client's title; only from `client.info`, where it stands in `head_clid`. (`head_clidTitle` of the list is a
    /// category's title, and left in `extra`.)
    pub head: Option<String>,
    /// The main contact.
    pub pid: Option<u64>,
    /// The main contact's name.
    pub person: Option<String>,
    /// The address.
    pub address: Option<String>,
    /// The phone, as it was written.
    pub phone: Option<String>,
    /// The fax, as it was written.
    pub fax: Option<String>,
    /// The site.
    pub site_url: Option<String>,
    /// The mail address.
    pub mail_url: Option<String>,
    /// The territory's number.
    pub territory: Option<u64>,
    /// The territory's title (`territoryTitle`, `territoryName`).
    pub territory_title: Option<String>,
    /// The description.
    pub des: Option<String>,
    /// The kind of relation, by its title.
    pub tip_cmr: Option<String>,
    /// The number of where it came from; only from `client.list`.
    pub clientpath: Option<u64>,
    /// The title of where it came from: `clientpathTitle` of the list, `clientpath` of `client.info`.
    pub clientpath_title: Option<String>,
    /// When it was made: `created` of `client.info`, whose `date_create` is in another form and left in `extra`.
    pub date_create: Option<String>,
    /// When it was changed last, `None` before the first time: `edited` of `client.info`, as above.
    pub date_edit: Option<String>,
    /// Every other field, by the CRM's name.
    pub extra: Map<String, Value>,
}

impl TryFrom<Value> for Client {
    type Error = Error;

    fn try_from(record: Value) -> Result<Self> {
        let (clid, mut fields) = Fields::begin("client", "clid", record)?;
        let from_info = fields.has("created") || fields.has("edited");
        let (created, edited) = if from_info { ("created", "edited") } else { ("date_create", "date_edit") };
        let head = if fields.is_text("head_clid") { fields.text("head_clid")? } else { None };
        let source = if fields.is_text("clientpath") { fields.text("clientpath")? } else { None };
        let idcategory = fields.reference("idcategory")?;
        let category = fields.either("idcategoryTitle", "categoryName")?;
        Ok(Self {
            clid,
            uid: fields.text("uid")?,
            kind: fields.text("type")?,
            title: fields.text("title")?,
            iduser: fields.reference("iduser")?,
            user: fields.text("user")?,
            idcategory,
            // Without one the CRM sends a title all the same: "not defined", in Russian.
            category: category.filter(|_| idcategory.is_some()),
            head_clid: fields.reference("head_clid")?,
            head,
            pid: fields.reference("pid")?,
            person: fields.text("person")?,
            address: fields.text("address")?,
            phone: fields.text("phone")?,
            fax: fields.text("fax")?,
            site_url: fields.text("site_url")?,
            mail_url: fields.text("mail_url")?,
            territory: fields.reference("territory")?,
            territory_title: fields.either("territoryTitle", "territoryName")?,
            des: fields.text("des")?,
            tip_cmr: fields.text("tip_cmr")?,
            clientpath: fields.reference("clientpath")?,
            clientpath_title: fields.text("clientpathTitle")?.or(source),
            date_create: fields.date(created)?,
            date_edit: fields.date(edited)?,
            extra: fields.rest(),
        })
    }
}

/// A contact person, as `person.list` and `person.info` answer it (measured on version 2025.4).
///
/// Missing, null, empty, zero dates and references of 0 are `None`. Times are `YYYY-MM-DD HH:MM:SS` in the account's time
/// zone.
///
/// # Example
/// ```
/// use salesman_plugin_sdk::Person;
/// use serde_json::json;
///
/// let listed = Person::try_from(json!({ "pid": 6, "user": "ui@example.test", "iduser": 2 }))?;
/// let read = Person::try_from(json!({ "pid": 6, "iduser": "ui@example.test" }))?;
/// assert_eq!((listed.iduser, read.iduser), (Some(2), None));
/// assert_eq!(listed.user, read.user);
/// # Ok::<(), salesman_plugin_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Person {
    /// The person's number.
    pub pid: u64,
    /// The client that the person belongs to.
    pub clid: Option<u64>,
    /// That client's title.
    pub client: Option<String>,
    /// The position.
    pub ptitle: Option<String>,
    /// The name.
    pub person: Option<String>,
    /// The phone, as it was written.
    pub tel: Option<String>,
    /// The fax, as it was written.
    pub fax: Option<String>,
    /// The mobile phone, as it was written.
    pub mob: Option<String>,
    /// The mail address.
    pub mail: Option<String>,
    /// The role.
    pub rol: Option<String>,
    /// The responsible employee; only from `person.list`.
    pub iduser: Option<u64>,
    /// That employee's login: `user` of the list, `iduser` of `person.info`.
    pub user: Option<String>,
    /// The loyalty's title.
    pub loyalty: Option<String>,
    /// The title of where the person came from; empty in every captured `person.info`, filled in every list.
    pub clientpath: Option<String>,
    /// When the record was made.
    pub date_create: Option<String>,
    /// When it was changed last; `None` before the first time.
    pub date_edit: Option<String>,
    /// Every other field, by the CRM's name.
    pub extra: Map<String, Value>,
}

impl TryFrom<Value> for Person {
    type Error = Error;

    fn try_from(record: Value) -> Result<Self> {
        let (pid, mut fields) = Fields::begin("person", "pid", record)?;
        let login = if fields.is_text("iduser") { fields.text("iduser")? } else { None };
        Ok(Self {
            pid,
            clid: fields.reference("clid")?,
            client: fields.text("client")?,
            ptitle: fields.text("ptitle")?,
            person: fields.text("person")?,
            tel: fields.text("tel")?,
            fax: fields.text("fax")?,
            mob: fields.text("mob")?,
            mail: fields.text("mail")?,
            rol: fields.text("rol")?,
            iduser: fields.reference("iduser")?,
            user: fields.text("user")?.or(login),
            loyalty: fields.text("loyalty")?,
            clientpath: fields.text("clientpath")?,
            date_create: fields.date("date_create")?,
            date_edit: fields.date("date_edit")?,
            extra: fields.rest(),
        })
    }
}
