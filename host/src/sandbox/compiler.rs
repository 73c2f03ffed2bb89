//! From a plugin's file to compiled code: in a process of its own, because everything about a file is hostile.
//!
//! - Reading, wrapping and compiling run libraries that fail on some files, and take what time and memory they like. In a
//!   process of their own they can do neither to the host: whatever happens is that file's own error.
//! - That process is the host's own program. It knows nothing of the host's environment, has bounds on memory, processor
//!   time and output, the lowest priority, and ends with the host.
//! - It also gives back the memory that compiling an interpreter takes.
//!
//! ```text
//! standard input    the file
//! standard output   4 bytes: length of the header; the header as JSON: Ok(manifest) or Err(LoadError); the code
//! ```
//!
//! Not here: the engine that runs the code (`engine`), what is kept of it (`cache`).

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
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
/// Bytes of compiled code.
const MOST_CODE: u64 = 512 << 20;
/// Bytes of address space. Compiling CPython takes 400 MiB of memory.
const MOST_MEMORY: u64 = 2 << 30;
/// Seconds of processor time. Compiling CPython takes 14.
const MOST_SECONDS: u64 = 60;
/// How long it may take on a machine that is busy with something else.
const MOST_WAIT: Duration = Duration::from_secs(600);
/// Threads that compile: stacks and the allocator's arenas count as address space, and must not grow with the machine.
const THREADS: &str = "4";

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

    /// What a file says of itself, and its code for the engine.
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<(Manifest, Vec<u8>), LoadError> {
        if bytes.len() > MOST_FILE {
            return Err(LoadError::TooLarge(bytes.len()));
        }
        match self {
            Self::Here => compile(bytes),
            Self::Process(program) => in_process(program, bytes),
        }
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

/// The process's side: reads the file from `input`; returns the answer, which is to be written out.
///
/// # Errors
/// When a bound can't be set, or the host is gone.
pub fn run(input: impl Read) -> std::io::Result<Vec<u8>> {
    let bound = |resource, most: u64| {
        // The soft bound first: it ends the process by a signal of its own.
        let limit = Rlimit { current: Some(most), maximum: Some(most.saturating_add(1)) };
        rustix::process::setrlimit(resource, limit)
    };
    bound(Resource::As, MOST_MEMORY)?;
    bound(Resource::Cpu, MOST_SECONDS)?;
    bound(Resource::Core, 0)?;
    bound(Resource::Fsize, 0)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A system that refuses compiles at the common priority.
    rustix::process::setpriority_process(None, 19).ok();
    let mut bytes = Vec::new();
    input.take(u64::try_from(MOST_FILE).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    let (header, code): (Header, Vec<u8>) = match compile(&bytes) {
        Ok((manifest, code)) => (Ok(manifest), code),
        Err(error) => (Err(error), Vec::new()),
    };
    let header = serde_json::to_vec(&header)?;
    let length = u32::try_from(header.len()).map_err(std::io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &header, &code].concat())
}

fn in_process(program: &PathBuf, bytes: &[u8]) -> Result<(Manifest, Vec<u8>), LoadError> {
    let failed = |error: std::io::Error| LoadError::Compiler(format!("its process can't be started: {error}"));
    let mut child = Command::new(program)
        .arg(COMMAND)
        .env_clear()
        .env("RAYON_NUM_THREADS", THREADS)
        .env("MALLOC_ARENA_MAX", THREADS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What a library says when it fails may quote the file.
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let said = converse(&mut child, bytes);
    // After its last byte it ends by itself; where it was cut off, it has to.
    if said.is_err() {
        drop(child.kill());
    }
    let status = child.wait().map_err(failed)?;
    let answer = said.ok().filter(|_| status.success()).and_then(|said| parse(&said));
    answer.unwrap_or_else(|| Err(broken(status)))
}

/// Hands the file over and reads what comes back, for as long as it may take.
fn converse(child: &mut Child, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(std::io::Error::other("no pipes"));
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    std::thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        let (ended, end) = channel::<()>();
        scope.spawn(move || {
            // It is not waited for before this thread has ended, so the number is still its own.
            if end.recv_timeout(MOST_WAIT) == Err(RecvTimeoutError::Timeout)
                && let Some(pid) = pid
            {
                rustix::process::kill_process(pid, Signal::KILL).ok();
            }
        });
        let mut said = Vec::new();
        let read = stdout.take(MOST_CODE).read_to_end(&mut said);
        drop(ended);
        read.map(|_| said)
    })
}

fn parse(said: &[u8]) -> Option<Result<(Manifest, Vec<u8>), LoadError>> {
    let (length, rest) = said.split_first_chunk::<4>()?;
    let (header, code) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    Some(header.map(|manifest| (manifest, code.to_vec())))
}

/// What a process came to that did not answer.
fn broken(status: ExitStatus) -> LoadError {
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU) => LoadError::TooMuch(format!("more than {MOST_SECONDS} s of processor time")),
        // By the system for want of memory, by the host after too long a time, or by an operator.
        Some(Signal::KILL | Signal::TERM | Signal::INT) => {
            LoadError::Compiler("its process was ended: the machine has too little memory, or is too busy".to_owned())
        }
        Some(_) => LoadError::TooMuch(format!("more than {} MiB of memory, or its stack", MOST_MEMORY >> 20)),
        None => LoadError::Damaged("what reads it failed on it".to_owned()),
    }
}
