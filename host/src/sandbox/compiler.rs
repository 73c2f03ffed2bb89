//! From a plugin's file to compiled code: in a process of its own, because everything about a file is hostile.
//!
//! - Reading, wrapping and compiling run libraries that fail on some files, and take what time and memory they like. In a
//!   process of their own they can do neither to the host: whatever happens is that file's own error.
//! - That process is the host's own program. It knows nothing of the host's environment, has bounds on memory, processor
//!   time and output that grow with the file, a low priority, and ends with the host.
//! - It also gives back the memory that compiling an interpreter takes.
//!
//! ```text
//! arguments         its length
//! standard input    the file
//! standard output   4 bytes: length of the header; the header as JSON: Ok(manifest) or Err(LoadError); the code
//! ```
//!
//! Not here: the engine that runs the code (`engine`), what is kept of it (`cache`).

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};

use super::component::{self, LoadError};
use super::engine;
use crate::plugin::Manifest;

/// The command that the host starts itself with.
pub const COMMAND: &str = "compile-plugin";
/// Bytes of a plugin's file. CPython, the largest known, has 18 MiB.
pub(super) const MOST_FILE: usize = 64 << 20;
/// Bytes of a plugin's manifest, as the process tells it.
const MOST_HEADER: u32 = 4 << 20;
/// Bytes of compiled code. CPython's has 38 MiB.
const MOST_CODE: u64 = 256 << 20;
/// Bytes of address space, whatever the file: far beyond what it may use.
const MOST_ADDRESSES: u64 = 4 << 30;
/// How a process ends in which something failed.
const FAILED: i32 = 101;
/// How a process ends that can't be given its bounds.
const UNBOUND: i32 = 102;
/// Threads that compile: each holds what it works on. Several files are compiled side by side instead.
const THREADS: &str = "1";

/// What making a file ready may take. It grows with the file, because compilers take time and memory by the size of what they
/// compile: what takes more is no plugin that a compiler made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Seconds of processor time.
    seconds: u64,
    /// How long it may take on a machine that is busy with something else.
    wait: Duration,
}

impl Allowance {
    /// That of a file of so many bytes. SpiderMonkey, of 12 MiB, and CPython, of 17, take 420 MiB and 15 s.
    pub(crate) fn of(size: u64) -> Self {
        let mib = size.div_ceil(1 << 20);
        let seconds = 10 + 4 * mib;
        Self { memory: (96 + 40 * mib).min(MOST_MEMORY) << 20, seconds, wait: Duration::from_secs(30 + 5 * seconds) }
    }
}

/// How far behind the host's threads, in the system's measure. Not at the very end: on a machine that others keep busy a plugin
/// would take minutes to be made ready.
const BEHIND: i32 = 10;

/// MiB of memory, of the largest files.
const MOST_MEMORY: u64 = 576;

/// Where plugins are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// In this process: for tools and tests whose files are their own.
    Here,
    /// In a process of this program.
    Process(PathBuf),
}

impl Compiler {
    /// A process of the program that runs now, even where its file has been replaced since.
    pub fn own_process() -> Self {
        Self::Process(PathBuf::from("/proc/self/exe"))
    }

    /// What a file says of itself; its code for the engine goes to `code`.
    pub(super) fn compile(&self, bytes: &[u8], code: &mut impl Write) -> Result<Manifest, Refusal> {
        if bytes.len() > MOST_FILE {
            return Err(LoadError::TooLarge(super::component::size(bytes)).into());
        }
        match self {
            Self::Here => {
                let (manifest, made) = compile(bytes)?;
                code.write_all(&made).map_err(Refusal::Code)?;
                Ok(manifest)
            }
            Self::Process(program) => in_process(program, bytes, code),
        }
    }
}

/// Why there is no code.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The file's fault, or the machine's.
    File(LoadError),
    /// It can't be written to where it was to go.
    Code(std::io::Error),
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        Self::File(error)
    }
}

/// What the process answers before the code.
type Header = Result<Manifest, LoadError>;

fn compile(bytes: &[u8]) -> Result<(Manifest, Vec<u8>), LoadError> {
    let parts = component::read(bytes)?;
    let component = component::component(bytes, &parts)?;
    let compiled = engine::for_compiling().and_then(|engine| engine.precompile_component(&component));
    let code = compiled.map_err(|error| LoadError::Compile(format!("{error:#}")))?;
    Ok((parts.manifest, code))
}

/// The process's side: reads the file from `input`, answers to `output`. `size` is how large the file is said to be.
///
/// # Errors
/// When a bound can't be set, or the host is gone.
pub fn run(size: u64, input: impl Read, mut output: impl Write) -> std::io::Result<()> {
    let allowance = Allowance::of(size);
    if bind(allowance).is_err() {
        std::process::exit(UNBOUND);
    }
    // A system that refuses compiles at the common priority.
    rustix::process::setpriority_process(None, BEHIND).ok();
    std::panic::set_hook(Box::new(move |info| end_at_once(allowance, info.payload_as_str().unwrap_or_default())));
    let mut bytes = Vec::new();
    input.take(size.min(u64::try_from(MOST_FILE).unwrap_or(u64::MAX))).read_to_end(&mut bytes)?;
    let compiled = compile(&bytes);
    drop(bytes);
    let (header, code): (Header, Vec<u8>) = match compiled {
        Ok((manifest, code)) => (Ok(manifest), code),
        Err(error) => (Err(error), Vec::new()),
    };
    let header = serde_json::to_vec(&header)?;
    let length = u32::try_from(header.len()).map_err(std::io::Error::other)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(&header)?;
    output.write_all(&code)?;
    output.flush()
}

/// Sets the bounds of this process. Where the system has lower ones it is refused: what they end is not the file's fault.
fn bind(allowance: Allowance) -> rustix::io::Result<()> {
    let bound = |resource, current: u64, maximum: u64| {
        rustix::process::setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
    };
    bound(Resource::As, MOST_ADDRESSES, MOST_ADDRESSES)?;
    bound(Resource::Data, allowance.memory, allowance.memory)?;
    // The soft bound first: it ends the process by a signal of its own.
    bound(Resource::Cpu, allowance.seconds, allowance.seconds.saturating_add(1))?;
    bound(Resource::Core, 0, 0)?;
    bound(Resource::Fsize, 0, 0)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// Ends the process where something in it failed: to unwind, and to tell where, takes memory, and may wait for a thread that
/// has none.
fn end_at_once(allowance: Allowance, said: &str) {
    // Some libraries fail where there is no more memory, instead of ending by themselves: some say so, of others it is
    // taken for granted where a third is used up, because all that grows is doubled, and held until it is copied.
    let rest = usize::try_from(allowance.memory / 3 * 2).unwrap_or(usize::MAX);
    if said.contains("out of memory") || Vec::<u8>::new().try_reserve_exact(rest).is_err() {
        std::process::abort();
    }
    std::process::exit(FAILED);
}

fn in_process(program: &PathBuf, bytes: &[u8], code: &mut impl Write) -> Result<Manifest, Refusal> {
    let failed = |error: std::io::Error| LoadError::Compiler(format!("its process can't be started: {error}"));
    let size = super::component::size(bytes);
    let allowance = Allowance::of(size);
    let mut child = Command::new(program)
        .args([COMMAND, &size.to_string()])
        .env_clear()
        .env("RAYON_NUM_THREADS", THREADS)
        .env("MALLOC_ARENA_MAX", THREADS)
        // What a terminal sends to the host is not meant for it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What a library says when it fails may quote the file.
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let said = converse(&mut child, bytes, code, allowance.wait);
    let status = child.wait().map_err(failed)?;
    match said {
        Ok(Some(Err(error))) => Err(error.into()),
        Ok(Some(Ok(manifest))) if status.success() => Ok(manifest),
        Err(error) => Err(Refusal::Code(error)),
        Ok(_) => Err(broken(status, allowance).into()),
    }
}

/// Hands the file over and reads what comes back, for as long as it may take; none where that is no answer. Unless it has
/// given its code to the last byte, the process is ended.
///
/// # Errors
/// When the code can't be written to where it is to go.
fn converse(child: &mut Child, bytes: &[u8], code: &mut impl Write, wait: Duration) -> std::io::Result<Option<Header>> {
    // It is not waited for before this function has returned, so the number is still its own.
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let kill = move || group.map(|group| rustix::process::kill_process_group(group, Signal::KILL).ok());
    let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        kill();
        return Ok(None);
    };
    let (ended, end) = channel::<()>();
    std::thread::scope(|scope| {
        let thread = || std::thread::Builder::new().name("plugin".to_owned());
        let began = thread().spawn_scoped(scope, move || {
            if end.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                kill();
            }
        });
        // It may end before it has read everything.
        let write = move || drop(stdin.write_all(bytes));
        let said = match began.and_then(|_| thread().spawn_scoped(scope, write)) {
            Err(error) => Err(error),
            Ok(writer) => {
                let said = listen(&mut stdout, code);
                // Before the writer is waited for: a process that reads nothing more would keep it.
                if !matches!(said, Ok(Some(Ok(_)))) {
                    kill();
                }
                drop(writer.join());
                said
            }
        };
        if said.is_err() {
            kill();
        }
        drop(ended);
        said
    })
}

/// The whole of what a process says; its code goes to `code`.
fn listen(stdout: &mut impl Read, code: &mut impl Write) -> std::io::Result<Option<Header>> {
    let header = header(stdout);
    let mut piece = vec![0; 64 << 10];
    let mut left = MOST_CODE;
    while let Some(Ok(_)) = header {
        let read = match stdout.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Ok(None),
        };
        let Some(rest) = left.checked_sub(u64::try_from(read).unwrap_or(u64::MAX)) else {
            let words = format!("more than {} MiB of compiled code", MOST_CODE >> 20);
            return Ok(Some(Err(LoadError::TooMuch(words))));
        };
        left = rest;
        code.write_all(piece.get(..read).unwrap_or_default())?;
    }
    Ok(header)
}

fn header(said: &mut impl Read) -> Option<Header> {
    let mut length = [0; 4];
    said.read_exact(&mut length).ok()?;
    let length = u32::from_le_bytes(length);
    let mut header = Vec::new();
    said.take(u64::from(length.min(MOST_HEADER))).read_to_end(&mut header).ok()?;
    serde_json::from_slice(&header).ok()
}

/// What a process came to that did not answer: the file's fault only where nothing else ends a process so.
fn broken(status: ExitStatus, allowance: Allowance) -> LoadError {
    let machine = |words: &str| LoadError::Compiler(format!("its process {words}"));
    let signal = status.signal().and_then(Signal::from_named_raw);
    match (signal, status.code()) {
        (Some(Signal::XCPU), _) => LoadError::TooMuch(format!("more than {} s of processor time", allowance.seconds)),
        (Some(Signal::SEGV | Signal::ABORT | Signal::BUS | Signal::ILL), _) => {
            LoadError::TooMuch(format!("more than {} MiB of memory, or its stack", allowance.memory >> 20))
        }
        // By the system for want of memory, or by the host after too long a time.
        (Some(Signal::KILL), _) => machine("was ended: the machine has too little memory, or is too busy"),
        (_, Some(FAILED)) => LoadError::Damaged("what reads it failed on it".to_owned()),
        (_, Some(UNBOUND)) => {
            machine("can't be given its bounds: the system's limits (`ulimit`) are lower than what it needs")
        }
        _ => machine(&format!("was ended from outside, or could not answer ({status})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: i32) -> LoadError {
        broken(ExitStatus::from_raw(raw), Allowance::of(1))
    }

    #[test]
    fn what_the_machine_or_an_operator_ends_is_no_verdict_on_the_file() {
        let signal = |signal: Signal| of(signal.as_raw());
        let final_ones = [Signal::XCPU, Signal::SEGV, Signal::ABORT, Signal::BUS, Signal::ILL];
        for own in final_ones {
            assert!(matches!(signal(own), LoadError::TooMuch(_)), "{own:?}");
        }
        for other in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::KILL, Signal::SYS, Signal::PIPE] {
            assert!(matches!(signal(other), LoadError::Compiler(_)), "{other:?}");
        }
        assert!(matches!(of(FAILED << 8), LoadError::Damaged(_)));
        for code in [0, 1, 2, UNBOUND, 127] {
            assert!(!of(code << 8).is_final(), "{code}");
        }
        assert!(of(UNBOUND << 8).to_string().contains("ulimit"));
    }

    /// A program in place of the host's own, which does what `script` says.
    fn program(folder: &std::path::Path, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_process_that_reads_nothing_and_answers_nonsense_keeps_nobody() {
        let folder = tempfile::tempdir().unwrap();
        // It closes its output, and goes on without reading: more than a pipe holds is to be written.
        let program = program(folder.path(), "printf nonsense; exec >&-; exec /bin/sleep 300");
        let began = std::time::Instant::now();
        let said = Compiler::Process(program).compile(&vec![0; 4 << 20], &mut Vec::new());
        assert!(matches!(said, Err(Refusal::File(LoadError::Compiler(_)))), "{said:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
