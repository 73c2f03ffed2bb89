//! What commands say: the one place that writes to standard output and standard error.
//!
//! - Output never costs work: a command that changes something has changed it whether or not somebody reads of it. What can't
//!   be written is left out, and [`end`] decides what that means for the exit code.
//! - A reader that has gone (`| head`) is no failure. A disk that is full is one.
//! - Whatever a text holds, nothing in it moves a cursor, colours a terminal or reads backwards: characters that nobody sees
//!   are shown by their numbers.
//! - Nothing here panics; `println!` and its like, which do, are used nowhere in the host (a test looks).

use std::fmt::Arguments;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context, ensure};

use crate::text;

/// Why nothing more can be written to standard output; empty as long as it can. A process has one standard output.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Writes to standard output, as `print!` does.
macro_rules! out {
    ($($words:tt)*) => { $crate::cli::out::write(format_args!($($words)*)) };
}

/// Writes a line to standard output, as `println!` does.
macro_rules! outln {
    ($($words:tt)*) => { $crate::cli::out::line(format_args!($($words)*)) };
}

/// Writes to standard error, as `eprint!` does.
macro_rules! err {
    ($($words:tt)*) => { $crate::cli::out::write_error(format_args!($($words)*)) };
}

/// Writes a line to standard error, as `eprintln!` does.
macro_rules! errln {
    ($($words:tt)*) => { $crate::cli::out::error_line(format_args!($($words)*)) };
}

pub(in crate::cli) fn write(words: Arguments<'_>) {
    keep(|out| out.write_all(text::visible(&words.to_string()).as_bytes()));
}

/// For what is for a program and no text: whoever writes it has to heed what fails.
pub(in crate::cli) fn bytes() -> impl Write {
    std::io::stdout().lock()
}

pub(in crate::cli) fn line(words: Arguments<'_>) {
    write(format_args!("{words}\n"));
}

/// Standard error is the last resort: where it is gone as well, there is nobody to be told.
pub(in crate::cli) fn write_error(words: Arguments<'_>) {
    drop(std::io::stderr().lock().write_all(text::visible(&words.to_string()).as_bytes()));
}

/// A line of a build tool that the author ran, whose colours are wanted.
pub(in crate::cli) fn tools_line(line: &str) {
    drop(std::io::stderr().lock().write_all(format!("{line}\n").as_bytes()));
}

pub(in crate::cli) fn error_line(words: Arguments<'_>) {
    // One write, so that lines of two threads stay whole.
    write_error(format_args!("{words}\n"));
}

/// Whether standard output still takes what is written; commands that go on until their reader leaves ask it.
pub(in crate::cli) fn is_open() -> bool {
    LOST.get().is_none()
}

/// Whether standard error is a terminal, so that what is shown there may have colours.
pub(in crate::cli) fn errors_to_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Asks a question of whoever sits at the terminal.
///
/// # Errors
/// Nobody can be asked; `instead` says what to do then.
pub(in crate::cli) fn agreed(question: &str, instead: &str) -> anyhow::Result<bool> {
    ensure!(std::io::stdin().is_terminal(), "nobody is there to be asked: {instead}");
    out!("{question} [y/N] ");
    keep(|out| out.flush());
    ensure!(is_open(), "the question can't be shown: {instead}");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("no answer could be read")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes" | "д" | "да"))
}

/// What clap has to say: help and the version on standard output, a misuse on standard error.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let words = error.render();
    if error.use_stderr() {
        err!("{words}")
    } else {
        out!("{words}")
    }
    end(u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Writes out what waits, and turns success into failure where output is missing that somebody wanted.
pub(super) fn end(code: ExitCode) -> ExitCode {
    keep(|out| out.flush());
    match LOST.get() {
        Some(lost) if lost.kind() != ErrorKind::BrokenPipe => {
            errln!("failed: standard output can't be written: {lost}");
            if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code }
        }
        _ => code,
    }
}

fn keep(act: impl FnOnce(&mut std::io::StdoutLock<'_>) -> std::io::Result<()>) {
    if !is_open() {
        return;
    }
    if let Err(error) = act(&mut std::io::stdout().lock()) {
        // The first reason stays.
        drop(LOST.set(error));
    }
}
