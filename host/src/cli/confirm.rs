//! The question before what can't be undone: how many things are meant, which, and whether to go on.

use super::out::agreed as agreed_at;

/// Asks, unless the command line agreed already. What is meant goes to standard error: standard output may be read by a
/// program.
///
/// # Errors
/// Nobody can be asked.
pub(super) fn agreed(what: &str, first: &[String], yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    errln!("{what}");
    first.iter().for_each(|line| errln!("  - {line}"));
    let agreed = agreed_at("This can't be undone. Go on?", "nothing was done; say `--yes` if it is meant")?;
    if !agreed {
        errln!("Nothing was done.");
    }
    Ok(agreed)
}
