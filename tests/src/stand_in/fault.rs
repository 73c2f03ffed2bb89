//! Scripted misbehaviour: what goes wrong with which call, and how often.
//!
//! - Rules are asked in the order they were given; the first that fits is used up by one.
//! - A rule never expires by time, so a test's result doesn't depend on the machine's speed.
//! - It only decides; carrying a fault out is the service's work.

use std::time::Duration;

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call is handled properly, but only after this time; a worker is held meanwhile.
    Slow(Duration),
    /// The connection is closed without an answer, and nothing is written.
    Down,
    /// A PHP fatal error before anything is written: HTML labelled as JSON.
    HtmlFatal,
    /// The record is written and its events are fired, then a PHP fatal error is the whole answer.
    HtmlAfterWrite,
    /// The record is written, and the proper JSON is followed by the HTML of a PHP fatal error.
    JsonThenHtml,
    /// The record is written and its events are fired, then the connection is closed without an answer.
    CloseAfterWrite,
    /// A web server's own status 500 with an HTML page, and nothing is written.
    Status500,
    /// The record is written, but the JSON of the answer is cut off in the middle.
    InvalidJson,
    /// Something else answers in the CRM's place, and nothing is written: a proxy, a maintenance page, a CRM without its
    /// database.
    Instead {
        /// The status, with its words.
        status: &'static str,
        /// `Retry-After`.
        retry_after: Option<&'static str>,
        /// The body.
        body: &'static str,
    },
    /// A proxy says 504 at once, and PHP goes on: the record is written, and its events are fired, only after this time.
    Impatient(Duration),
    /// No answer ever: a worker is held until the caller gives up; nothing is written.
    Hang,
}

/// The fatal error's page, as PHP prints it with paths and all.
pub(super) const FATAL_PAGE: &str = "<br />\n<b>Fatal error</b>:  Uncaught TypeError: array_merge(): Argument #2 must be of type array, null given in /var/www/crm/developer/v2/logger.php:34\nStack trace:\n#0 /var/www/crm/developer/v2/logger.php(34): array_merge()\n#1 {main}\n  thrown in <b>/var/www/crm/developer/v2/logger.php</b> on line <b>34</b><br />\n";

/// All rules still in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    fault: Fault,
    /// `None` fits every method.
    method: Option<String>,
    /// `None` fits every action.
    action: Option<String>,
    /// Fitting calls that go well before the first fault.
    skip: usize,
    left: usize,
}

impl Faults {
    pub(super) fn add(
        &mut self,
        fault: Fault,
        method: Option<&str>,
        action: Option<&str>,
        (skip, times): (usize, usize),
    ) {
        self.rules.push(Rule {
            fault,
            method: method.map(ToOwned::to_owned),
            action: action.map(ToOwned::to_owned),
            skip,
            left: times,
        });
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Uses up the first rule that fits this call.
    pub(super) fn take(&mut self, method: &str, action: &str) -> Option<Fault> {
        for rule in self.rules.iter_mut().filter(|rule| rule.left > 0 && rule.fits(method, action)) {
            if rule.skip == 0 {
                rule.left -= 1;
                return Some(rule.fault);
            }
            rule.skip -= 1;
        }
        None
    }
}

impl Rule {
    fn fits(&self, method: &str, action: &str) -> bool {
        // The chat is another program: a rule for "every method" means the CRM's.
        let method_fits = self.method.as_deref().map_or(method != "chat", |wanted| wanted == method);
        method_fits && self.action.as_deref().is_none_or(|wanted| wanted == action)
    }
}
