//! A rehearsal and a comparison, for people.

use crate::capabilities::shortened;
use crate::workshop::rehearse::compare::{Comparison, Difference};
use crate::workshop::rehearse::{Called, Rehearsal, Used};

/// Bytes of a request or an answer that are shown.
const SHOWN: usize = 600;

/// What a rehearsal came to.
pub(super) fn rehearsal(told: &Rehearsal, from: &str) -> String {
    let mut text = format!("{} {} · {}", told.plugin, told.version, told.event);
    if let Some(entity) = &told.entity {
        text.push_str(&format!(" · {entity}"));
    }
    text.push_str(&format!(" · attempt {}\n{from}\n\n", told.attempt));
    text.push_str(&outcome("outcome", &told.outcome, told.code, &told.reason));
    section(
        &mut text,
        "log",
        told.lines.iter().map(|line| format!("{:>9}  {:<5}  {}", ms(line.at), line.level, plain(&line.text))),
    );
    if told.lines_dropped > 0 {
        text.push_str(&format!("  and {} lines that did not fit\n", told.lines_dropped));
    }
    section(&mut text, "calls", (1_usize..).zip(&told.calls).map(|(number, called)| call(number, called)));
    section(
        &mut text,
        "state it would store",
        told.state.iter().map(|stored| {
            format!("{} {} {}", stored.how, stored.key, shown(stored.value.as_deref().unwrap_or_default()))
        }),
    );
    section(&mut text, "used", told.used.iter().map(used));
    section(&mut text, "answers that nobody asked for", told.unused.iter().cloned());
    section(&mut text, "to know", told.notes.iter().cloned());
    text
}

/// What differs from then.
pub(super) fn comparison(told: &Comparison) -> String {
    let mut text = "\nthen and now\n".to_owned();
    text.push_str(&format!("  then    {}\n", told.version_then));
    if told.outcome_then == told.outcome_now && told.reason_then == told.reason_now {
        text.push_str(&format!("  outcome {}: as then\n", told.outcome_now));
    } else {
        text.push_str(&indented(&outcome("- outcome", &told.outcome_then, None, &told.reason_then)));
        text.push_str(&indented(&outcome("+ outcome", &told.outcome_now, None, &told.reason_now)));
    }
    text.push_str(&format!("  writes  {} as then, {} that differ\n", told.same, told.writes.len()));
    for write in &told.writes {
        text.push_str(&indented(&difference(write)));
    }
    text.push_str(if told.equal { "  equal: the same outcome and the same writes\n" } else { "  different\n" });
    text
}

fn difference(write: &Difference) -> String {
    match write {
        Difference::Added(write) => format!("+ {} {}\n", write.call, shown(&write.request)),
        Difference::Gone(write) => format!("- {} {}\n", write.call, shown(&write.request)),
        Difference::Changed { call, arguments } => {
            let mut text = format!("~ {call}\n");
            for argument in arguments {
                for (sign, value) in [('-', &argument.then), ('+', &argument.now)] {
                    if let Some(value) = value {
                        let name = if argument.name.is_empty() { "body" } else { &argument.name };
                        text.push_str(&format!("    {sign} {name}: {}\n", shown(&value.to_string())));
                    }
                }
            }
            text
        }
    }
}

fn outcome(title: &str, outcome: &str, code: Option<&str>, reason: &str) -> String {
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    let mut lines = reason.lines();
    let first = lines.next().map(|line| format!(": {}", plain(line))).unwrap_or_default();
    let mut text = format!("{title} {outcome}{code}{first}\n");
    for line in lines {
        text.push_str(&format!("    {}\n", plain(line)));
    }
    text
}

fn call(number: usize, called: &Called) -> String {
    let mark = if called.not_sent {
        "  NOT SENT, the answer is made up"
    } else if called.unanswered {
        "  NO ANSWER"
    } else {
        ""
    };
    let mut text = format!("{number:>3}. {:>9}  {}{mark}\n", ms(called.took), called.call);
    text.push_str(&format!("       > {}\n", shown(&called.request)));
    text.push_str(&format!("       {} {}", if called.good { '<' } else { '!' }, shown(&called.answer)));
    text
}

fn used(used: &Used) -> String {
    let (amount, most) = match used.unit {
        "us" => (ms(used.used), ms(used.most)),
        "bytes" if used.most >= 1 << 20 => (tenths(used.used, 1 << 20, "MiB"), tenths(used.most, 1 << 20, "MiB")),
        "bytes" => (tenths(used.used, 1 << 10, "KiB"), tenths(used.most, 1 << 10, "KiB")),
        _ => (grouped(used.used), grouped(used.most)),
    };
    let mut text = format!("{:<10}{amount:>12} of {most:>12}", used.what);
    if used.reached {
        let limit = used.limit;
        text.push_str(&format!(
            "  ← the limit: raise `{limit}` under `[limits]` of `plugin.toml`, or `limits.{limit}` under `[plugins.NAME]` of \
             the host's configuration"
        ));
    }
    text
}

fn ms(micros: u64) -> String {
    if micros >= 100_000 { format!("{} ms", grouped(micros / 1_000)) } else { tenths(micros, 1_000, "ms") }
}

fn tenths(number: u64, unit: u64, name: &str) -> String {
    let tenths = number.saturating_mul(10) / unit;
    if tenths.is_multiple_of(10) || tenths >= 1_000 {
        format!("{} {name}", grouped(tenths / 10))
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn section(text: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_none() {
        return;
    }
    text.push_str(&format!("\n{title}\n"));
    for line in lines {
        text.push_str(&format!("  {line}\n"));
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// One line, not too long. What the plugin or the CRM says must not steer the terminal.
fn shown(text: &str) -> String {
    let start = shortened(text, SHOWN);
    let whole = plain(start);
    if start.len() < text.len() { format!("{whole}… ({} bytes)", text.len()) } else { whole }
}

fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_at_a_glance() {
        assert_eq!([ms(0), ms(12_345), ms(1_000_000), ms(30_000_000)], ["0 ms", "12.3 ms", "1,000 ms", "30,000 ms"]);
        assert_eq!(tenths(3_250_586, 1 << 20, "MiB"), "3.1 MiB");
        assert_eq!([grouped(0), grouped(999), grouped(1_000), grouped(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn what_a_plugin_says_can_not_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert!(shown(&"я".repeat(1_000)).ends_with("… (2000 bytes)"));
    }
}
