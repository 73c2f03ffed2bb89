//! The catalogue: every event name that the CRM knows, measured on version 2025.4 (names that never came were read in
//! its source). One entry makes the type, the variant, the reading, the line in [`catalogue`] and the documentation.
//!
//! - A `u64` is the record's own number: an event without it is broken. Everything else may be missing.
//! - In an `Option<u64>` the CRM's 0 ("none") is `None`.
//! - `autor` is here because the CRM sends it. It is 0 or wrong in several events: [`Event::actor`](crate::Event::actor)
//!   says who it was.

use serde_json::{Map, Value};

use super::macros::events;
use super::read::Fields;
use super::value::{Amount, Changes, Reassigned};
use crate::Result;

/// One line of the [`catalogue`].
///
/// # Example
/// ```
/// let deals = salesman_plugin_sdk::catalogue().iter().filter(|entry| entry.name.starts_with("deal."));
/// assert_eq!(deals.count(), 8);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogueEntry {
    /// The event's name.
    pub name: &'static str,
    /// The CRM's names of its fields, besides `event`, `identity` and `iduser1`.
    pub fields: &'static [&'static str],
    /// Whether a CRM as it is installed delivers it.
    pub delivered: Delivered,
    /// When it is fired, and what is odd about it.
    pub when: &'static str,
}

/// Whether a CRM as it is installed delivers an event.
///
/// # Example
/// ```
/// assert_eq!(salesman_plugin_sdk::Delivered::PageOnly.as_str(), "pages only");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivered {
    /// From its pages and from its API.
    Yes,
    /// From its pages, but never from its API.
    PageOnly,
    /// From its API, but never from its pages.
    ApiOnly,
    /// It is fired only by pages that don't load the delivery, so practically nobody receives it.
    Unreachable,
    /// It is fired, but not registered in the stock `developer/events.php`: the administrator has to add it there.
    NotRegistered,
    /// Nothing in the CRM fires it under this name.
    Never,
}

impl Delivered {
    /// In words, for a table.
    ///
    /// # Example
    /// ```
    /// assert_eq!(salesman_plugin_sdk::Delivered::NotRegistered.as_str(), "not registered");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::PageOnly => "pages only",
            Self::ApiOnly => "API only",
            Self::Unreachable => "practically no",
            Self::NotRegistered => "not registered",
            Self::Never => "never",
        }
    }
}

impl std::fmt::Display for Delivered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

events! {
    "client.add" ClientAdd Yes
        "A client was added. The express form sends it twice: as usual, and once more with the contact, deal and task."
        {
            clid: u64 = "The client.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user: Option<u64> = "Who is responsible for the client.",
            pid: Option<u64> = "The contact; only in the express form's second event.",
            did: Option<u64> = "The deal; only in the express form's second event.",
            tid: Option<u64> = "The task; only in the express form's second event.",
        }
        [("clid", "7"), ("user", "2")] => data.clid == 7 && data.user == Some(2);

    "client.edit" ClientEdit Yes
        "A client was changed. The API fires it only when something differs; a new owner set through it comes as `iduser` in `newparam`."
        {
            clid: u64 = "The client.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user: Option<u64> = "Who is responsible for the client; missing when the API's request did not name anybody.",
            newparam: Changes = "The fields that changed, and their new values.",
        }
        [("clid", "1"), ("user", "0")] => data.clid == 1 && data.user.is_none();

    "client.delete" ClientDelete Yes
        "A client was deleted. The documented `user` is not sent."
        {
            clid: u64 = "The client that was.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("clid", "3")] => data.clid == 3;

    "client.change.recv" ClientChangeRecv PageOnly
        "A client's bank details and the like were changed on its page. The same change through the API fires nothing."
        {
            clid: u64 = "The client.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user: Option<u64> = "Who is responsible for the client.",
        }
        [("clid", "1"), ("user", "2")] => data.clid == 1;

    "client.change.user" ClientChangeUser PageOnly
        "A client, or several at once, passed to another employee. Through the API this comes as `client.edit`."
        {
            clid: Option<u64> = "The client; missing after a mass change.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            olduser: Option<u64> = "Who was responsible before; missing after a mass change, where every record has its own.",
            newuser: Option<u64> = "Who is responsible now.",
            comment: Option<String> = "The reason that was given.",
            info: Vec<Reassigned> = "The clients of a mass change; empty after a single one.",
        }
        [("clid", "1"), ("olduser", "2"), ("newuser", "4")] => data.clid == Some(1) && data.newuser == Some(4);

    "client.import" ClientImport PageOnly
        "Clients were imported from a file. With 1,000 ids or more the CRM's own relay loses the event."
        {
            clids: Vec<u64> = "The clients.",
            pids: Vec<u64> = "Their contacts.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user: Option<u64> = "Who is responsible; in practice missing.",
        }
        [("autor", "1")] => data.clids.is_empty() && data.pids.is_empty();

    "client.expressadd" ClientExpressadd Never
        "Registered, but never sent under its own name: the express form sends `client.add`, `person.add` and `task.add`."
        {
            clid: Option<u64> = "The client.",
            did: Option<u64> = "The deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user: Option<u64> = "Who is responsible.",
            pid: Option<u64> = "The contact.",
            tid: Option<u64> = "The task.",
        }
        [("clid", "9"), ("did", "0")] => data.clid == Some(9) && data.did.is_none();

    "person.add" PersonAdd Yes
        "A contact was added. The express form sends it twice: as usual, and once more with the client, deal and task."
        {
            pid: u64 = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            clid: Option<u64> = "The client; only in the express form's second event.",
            did: Option<u64> = "The deal; only in the express form's second event.",
            user: Option<u64> = "Who is responsible; only in the express form's second event.",
            tid: Option<u64> = "The task; only in the express form's second event.",
        }
        [("pid", "1")] => data.pid == 1 && data.clid.is_none();

    "person.edit" PersonEdit Yes
        "A contact was saved. Through the API it comes even when nothing changed, and even for a contact that does not exist."
        {
            pid: u64 = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            newparam: Changes = "The fields that changed, and their new values; an API call empties those that it does not send.",
        }
        [("pid", "1")] => data.pid == 1 && data.newparam.names().count() == 0;

    "person.delete" PersonDelete Yes
        "A contact was deleted. Through the API it comes even for a contact that is already gone, and for number 0."
        {
            pid: u64 = "The contact that was; may be 0.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("pid", "0")] => data.pid == 0;

    "person.change.user" PersonChangeUser PageOnly
        "A contact passed to another employee, alone or with its client."
        {
            pid: u64 = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            olduser: Option<u64> = "Who was responsible before.",
            newuser: Option<u64> = "Who is responsible now.",
            comment: Option<String> = "The reason that was given.",
        }
        [("pid", "1"), ("olduser", "2"), ("newuser", "4")] => data.newuser == Some(4);

    "deal.add" DealAdd Yes
        "A deal was added."
        {
            did: u64 = "The deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user_uid ["userUID"]: Option<String> = "The external number of the employee who added it.",
            newparam: Changes = "The whole deal. Its `kol` (amount) is 0 even when positions follow.",
        }
        [("did", "1"), ("userUID", "UID-1")] => data.did == 1 && data.user_uid.as_deref() == Some("UID-1");

    "deal.edit" DealEdit Yes
        "A deal was changed, or its positions were."
        {
            did: u64 = "The deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            newparam: Changes = "The fields that changed; empty when the positions did. An empty `pid_list` was really emptied.",
            comment: Option<String> = "What happened to the positions; missing when fields changed.",
        }
        [("did", "1"), ("comment", "Изменена спецификация")] => data.newparam.names().count() == 0 && data.comment.is_some();

    "deal.delete" DealDelete Yes
        "A deal was deleted."
        {
            did: u64 = "The deal that was.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("did", "2")] => data.did == 2;

    "deal.change.user" DealChangeUser Yes
        "A deal, or (on the page) several at once, passed to another employee."
        {
            did: Option<u64> = "The deal; missing after a mass change.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            olduser: Option<u64> = "Who was responsible before; missing after a mass change, where every record has its own.",
            newuser: Option<u64> = "Who is responsible now.",
            comment: Option<String> = "The reason that was given.",
            info: Vec<Reassigned> = "The deals of a mass change; empty after a single one.",
        }
        [("did", "1"), ("olduser", "1"), ("newuser", "2")] => data.did == Some(1) && data.info.is_empty();

    "deal.change.step" DealChangeStep Yes
        "A deal moved to another step. A mass change of the step fires nothing."
        {
            did: u64 = "The deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            step_old ["stepOld"]: Option<String> = "The title of the step before, a percentage without its sign; missing when it is unknown.",
            step_new ["stepNew"]: Option<String> = "The title of the step now, a percentage without its sign; missing when it is unknown.",
            reason: Option<String> = "The reason that was given.",
            comment: Option<String> = "The same text again.",
        }
        [("did", "1"), ("stepNew", "60")] => data.step_old.is_none() && data.step_new.as_deref() == Some("60");

    "deal.change.datum_plan" DealChangeDatumPlan NotRegistered
        "A deal's planned date was moved."
        {
            did: u64 = "The deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            olddate: Option<String> = "The date before.",
            newdate: Option<String> = "The date now.",
            comment: Option<String> = "The reason that was given.",
        }
        [("did", "1"), ("newdate", "2026-12-03")] => data.newdate.as_deref() == Some("2026-12-03");

    "deal.close" DealClose Yes
        "A deal was closed."
        {
            did: u64 = "The deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            summa: Option<Amount> = "The amount that the deal came to.",
            status: Option<String> = "The title of the result.",
        }
        [("did", "4"), ("summa", "5000")] => data.summa.and_then(|summa| summa.as_minor()) == Some(500_000);

    "deal.import" DealImport PageOnly
        "Deals were imported from a file. With 1,000 ids or more the CRM's own relay loses the event."
        {
            clids: Vec<u64> = "The clients that were made with them.",
            dids: Vec<u64> = "The deals.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user: Option<u64> = "Who is responsible.",
        }
        [("autor", "1")] => data.dids.is_empty();

    "invoice.add" InvoiceAdd Yes
        "An invoice was added. An express payment fires it too, and no `invoice.doit`."
        {
            id: u64 = "The invoice.",
            did: u64 = "Its deal.",
            autor: Option<u64> = "Not reliable: through the API it is the deal's responsible employee.",
            user: Option<u64> = "Who is responsible.",
            user_uid ["userUID"]: Option<String> = "The external number of who is responsible.",
            summa: Option<Amount> = "The invoice's amount.",
            invoice: Option<String> = "The invoice's own number, any text.",
        }
        [("id", "1"), ("did", "1"), ("summa", "1000")] => data.id == 1 && data.summa == Some("1000".into());

    "invoice.edit" InvoiceEdit PageOnly
        "An invoice was changed."
        {
            id: u64 = "The invoice.",
            did: u64 = "Its deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user: Option<u64> = "Who is responsible.",
            user_uid ["userUID"]: Option<String> = "The external number of who is responsible.",
            summa: Option<Amount> = "The invoice's amount.",
            invoice: Option<String> = "The invoice's own number, any text.",
        }
        [("id", "2"), ("did", "4"), ("invoice", "СЧ-7")] => data.invoice.as_deref() == Some("СЧ-7");

    "invoice.doit" InvoiceDoit Yes
        "An invoice was paid, wholly or in part. It comes again when a paid invoice is paid again."
        {
            id: u64 = "The invoice.",
            did: u64 = "Its deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user_uid ["userUID"]: Option<String> = "The external number of who is responsible.",
            invoice: Option<String> = "The invoice's own number, any text.",
            summa: Option<Amount> = "What was paid.",
            summa_new ["summaNew"]: Option<Amount> = "What remains to be paid.",
        }
        [("id", "1"), ("did", "1"), ("summa", "400"), ("summaNew", "600")] => data.summa_new == Some("600".into());

    "invoice.undoit" InvoiceUndoit PageOnly
        "A payment was taken back. It is not in the list of the webhooks' settings: its row has to be added by hand."
        {
            id: u64 = "The invoice.",
            did: u64 = "Its deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user_uid ["userUID"]: Option<String> = "The external number of who is responsible.",
            invoice: Option<String> = "The invoice's own number, any text.",
        }
        [("id", "2"), ("did", "4")] => data.id == 2;

    "invoice.delete" InvoiceDelete NotRegistered
        "An invoice was deleted."
        {
            id: u64 = "The invoice that was.",
            did: u64 = "Its deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user_uid ["userUID"]: Option<String> = "The external number of the employee who deleted it.",
            invoice: Option<String> = "The invoice's own number, any text.",
        }
        [("id", "2"), ("did", "4")] => data.id == 2;

    "invoice.expressadd" InvoiceExpressadd Never
        "Registered, but nothing fires it: an express payment sends `invoice.add`."
        {
            id: Option<u64> = "The invoice.",
            did: Option<u64> = "Its deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user_uid ["userUID"]: Option<String> = "The external number of who is responsible.",
            invoice: Option<String> = "The invoice's own number, any text.",
            summa: Option<Amount> = "What was paid.",
            summa_new ["summaNew"]: Option<Amount> = "What remains to be paid.",
        }
        [("id", "1"), ("summa", "100.00")] => data.id == Some(1);

    "task.add" TaskAdd Yes
        "A task was added: one event, even when several employees got it. The express form sends it twice: as usual, and once more with `tid`."
        {
            id ["id", "tid"]: u64 = "The task; read from `tid` in the express form's second event.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            clid: Option<u64> = "The client; only in the express form's second event.",
            did: Option<u64> = "The deal; only in the express form's second event.",
            user: Option<u64> = "Who is responsible; only in the express form's second event.",
            pid: Option<u64> = "The contact; only in the express form's second event.",
            tid: Option<u64> = "The task once more; only in the express form's second event.",
        }
        [("tid", "3"), ("clid", "1")] => data.id == 3 && data.clid == Some(1);

    "task.edit" TaskEdit Yes
        "A task was changed. A move in the calendar sends it twice, the second time without the task's number."
        {
            id: Option<u64> = "The task; missing in the second event of a move in the calendar.",
            autor: Option<u64> = "Not reliable: 0 through the API, which is `None` here.",
        }
        [("id", "1"), ("autor", "0")] => data.id == Some(1) && data.autor.is_none();

    "task.doit" TaskDoit Yes
        "A task was done."
        {
            id: u64 = "The task.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1")] => data.id == 1;

    "task.remove" TaskRemove NotRegistered
        "A task was deleted."
        {
            id: u64 = "The task that was.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1")] => data.id == 1;

    "history.add" HistoryAdd PageOnly
        "An activity was written down on a page. Those that the API, done tasks and imports make fire nothing."
        {
            id: u64 = "The activity.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "63")] => data.id == 63;

    "history.edit" HistoryEdit Never
        "Registered, but nothing fires it."
        {
            id: Option<u64> = "The activity.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1")] => data.id == Some(1);

    "lead.add" LeadAdd ApiOnly
        "A lead came in, if the leads' settings say that the coordinator is told, and nobody is assigned yet."
        {
            id: u64 = "The lead.",
            clid: Option<u64> = "The client.",
            pid: Option<u64> = "The contact.",
            did: Option<u64> = "The deal.",
            iduser: Option<u64> = "The coordinator.",
        }
        [("id", "1"), ("clid", "0"), ("iduser", "1")] => data.clid.is_none() && data.iduser == Some(1);

    "lead.setuser" LeadSetuser ApiOnly
        "A lead came in for somebody, if the leads' settings say that the operator is told. Later assignments are made on a page that fires nothing."
        {
            id: u64 = "The lead.",
            clid: Option<u64> = "The client; missing in a later assignment.",
            pid: Option<u64> = "The contact; missing in a later assignment.",
            did: Option<u64> = "The deal; missing in a later assignment.",
            iduser: Option<u64> = "Who got the lead.",
            coordinator: Option<u64> = "The coordinator; only in a later assignment.",
        }
        [("id", "2"), ("clid", "1"), ("iduser", "2")] => data.iduser == Some(2);

    "lead.do" LeadDo Unreachable
        "A lead was worked off, or the coordinator turned it down. The leads' page, the only place for it, does not load the delivery."
        {
            id: u64 = "The lead.",
            autor: Option<u64> = "Not reliable; missing when the lead was turned down.",
            clid: Option<u64> = "The client; missing when the lead was turned down.",
            pid: Option<u64> = "The contact; missing when the lead was turned down.",
            did: Option<u64> = "The deal; missing when the lead was turned down.",
            coordinator: Option<u64> = "The coordinator.",
        }
        [("id", "5"), ("coordinator", "1")] => data.coordinator == Some(1);

    "entry.add" EntryAdd PageOnly
        "A request (the module \"Обращения\") was written down."
        {
            id: u64 = "The request.",
            clid: Option<u64> = "The client.",
            pid: Option<u64> = "The contact.",
            did: Option<u64> = "The deal.",
            iduser: Option<u64> = "Who is responsible.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1"), ("clid", "1"), ("did", "0")] => data.clid == Some(1) && data.did.is_none();

    "entry.status" EntryStatus Yes
        "A request got another status: on its page, or by a deal made from it (`deal.add` with `ide`, on the page or through the API). The API's own `entry.status` fires nothing."
        {
            id: u64 = "The request.",
            status: Option<String> = "The code of the new status, a number as text; 1 when a deal was made.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
            user_uid ["userUID"]: Option<String> = "The external number of the employee; only when a deal was made.",
        }
        [("id", "1"), ("status", "2")] => data.status.as_deref() == Some("2");

    "contract.add" ContractAdd Never
        "Registered, but nothing fires it: the code fires `document.add`, and the API fires nothing for a new document."
        {
            id: Option<u64> = "The document.",
            number: Option<String> = "Its number, any text.",
            datum: Option<String> = "Its date.",
            did: Option<u64> = "The deal.",
            payer: Option<u64> = "The client that pays.",
            clid: Option<u64> = "The client.",
            pid: Option<u64> = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1"), ("number", "1")] => data.id == Some(1);

    "contract.edit" ContractEdit ApiOnly
        "A document was changed, or its status; for acts too (`akt.add` and `akt.status.change` of the API). The documents' page fires nothing."
        {
            id: u64 = "The document.",
            number: Option<String> = "Its number, any text; missing unless the request held it.",
            datum: Option<String> = "Its date; missing unless the request held it.",
            did: Option<u64> = "The deal; missing unless the request held `idtype`.",
            payer: Option<u64> = "The client that pays; missing unless the request held `idtype`.",
            clid: Option<u64> = "The client; missing unless the request held `idtype`.",
            pid: Option<u64> = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1"), ("did", "0"), ("pid", "0")] => data.id == 1 && data.did.is_none();

    "contract.delete" ContractDelete ApiOnly
        "A document or an act was deleted. The documents' page fires nothing."
        {
            deid: u64 = "The document that was.",
            did: Option<u64> = "The deal.",
        }
        [("deid", "2"), ("did", "0")] => data.deid == 2 && data.did.is_none();

    "document.add" DocumentAdd NotRegistered
        "A document was added: the name that the code really fires for `contract.add`."
        {
            id: u64 = "The document.",
            number: Option<String> = "Its number, any text.",
            datum: Option<String> = "Its date.",
            did: Option<u64> = "The deal.",
            payer: Option<u64> = "The client that pays.",
            clid: Option<u64> = "The client.",
            pid: Option<u64> = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1"), ("did", "1")] => data.id == 1 && data.did == Some(1);

    "akt.add" AktAdd Unreachable
        "An act was added, by its name; but the API's `akt.add` sends `contract.edit`, the page fires nothing, and what does send it is the deletion of an act."
        {
            id: Option<u64> = "The act.",
            number: Option<String> = "Its number, any text.",
            datum: Option<String> = "Its date, with the time.",
            did: Option<u64> = "The deal.",
            payer: Option<u64> = "The client that pays.",
            clid: Option<u64> = "The client.",
            pid: Option<u64> = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "5"), ("number", "77")] => data.id == Some(5);

    "akt.edit" AktEdit Unreachable
        "An act was changed, by its name; but the API's `akt.status.change` sends `contract.edit`, and the page fires nothing."
        {
            id: Option<u64> = "The act.",
            number: Option<String> = "Its number, any text.",
            datum: Option<String> = "Its date.",
            did: Option<u64> = "The deal.",
            payer: Option<u64> = "The client that pays.",
            clid: Option<u64> = "The client.",
            pid: Option<u64> = "The contact.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "3"), ("number", "77")] => data.number.as_deref() == Some("77");

    "akt.delete" AktDelete Never
        "Registered, but nothing fires it: the deletion of an act sends `contract.delete` and `akt.add`."
        {
            id: Option<u64> = "The act.",
            did: Option<u64> = "The deal.",
            autor: Option<u64> = "Not reliable: see [`Event::actor`](crate::Event::actor).",
        }
        [("id", "1"), ("did", "1")] => data.did == Some(1);

    "email.send" EmailSend Never
        "A placeholder: registered, but nothing fires it."
        { id: Option<u64> = "A guess: the letter.", autor: Option<u64> = "A guess: the employee.", }
        [("id", "1")] => data.id == Some(1);

    "email.get" EmailGet Never
        "A placeholder: registered, but nothing fires it."
        { id: Option<u64> = "A guess: the letter.", autor: Option<u64> = "A guess: the employee.", }
        [("id", "1")] => data.id == Some(1);

    "budjet.add" BudjetAdd Never
        "A placeholder: registered, but nothing fires it."
        { id: Option<u64> = "A guess: the expense.", autor: Option<u64> = "A guess: the employee.", }
        [("id", "1")] => data.id == Some(1);

    "budjet.edit" BudjetEdit Never
        "A placeholder: registered, but nothing fires it."
        { id: Option<u64> = "A guess: the expense.", autor: Option<u64> = "A guess: the employee.", }
        [("id", "1")] => data.id == Some(1);

    "budjet.do" BudjetDo Never
        "A placeholder: registered, but nothing fires it."
        { id: Option<u64> = "A guess: the expense.", autor: Option<u64> = "A guess: the employee.", }
        [("id", "1")] => data.id == Some(1);

    "budjet.undo" BudjetUndo Never
        "A placeholder: registered, but nothing fires it."
        { id: Option<u64> = "A guess: the expense.", autor: Option<u64> = "A guess: the employee.", }
        [("id", "1")] => data.id == Some(1);

    "budjet.move" BudjetMove Never
        "A placeholder: registered, but nothing fires it."
        { id: Option<u64> = "A guess: the expense.", autor: Option<u64> = "A guess: the employee.", }
        [("id", "1")] => data.id == Some(1);
}
