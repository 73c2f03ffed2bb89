//! What stands between a host and its disk and clock (`shim.c`): compiled once, loaded into one host, steered by a page.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::host::Setup;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/faults/shim.c");

pub(super) fn possible() -> anyhow::Result<()> {
    if cfg!(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Ok(());
    }
    bail!("faults are made by a library that is loaded before glibc, on Linux and x86-64 or aarch64: not here")
}

/// The library.
pub(super) struct Library {
    folder: TempDir,
}

/// Which files are meant.
pub(super) const STORE: u32 = 1;
pub(super) const LOG: u32 = 2;
pub(super) const OTHER: u32 = 4;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    SyncFails,
    WriteFails,
    WriteIsShort,
    NoRoom,
}

impl Library {
    /// Compiles it, with the compiler that SQLite needs as well.
    pub(super) fn build() -> anyhow::Result<Self> {
        possible()?;
        let folder = tempfile::tempdir()?;
        let compiler = std::env::var_os("CC").unwrap_or("cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
        command.arg(folder.path().join("faults.so")).arg(SOURCE).args(["-ldl", "-pthread"]);
        let output = command.output().with_context(|| format!("failed to run `{}`", compiler.display()))?;
        ensure!(output.status.success(), "`shim.c` can't be compiled:\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { folder })
    }

    /// What a host is started with, and what steers it. `traced`: whether all that it does is written down.
    pub(super) fn load(&self, setup: Setup, traced: bool) -> anyhow::Result<(Setup, TempDir, Steering)> {
        let (folder, beside) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (control, trace) = (beside.path().join("control"), beside.path().join("trace"));
        std::fs::write(&control, [0; 4_096])?;
        let mut setup = setup
            .environment("LD_PRELOAD", &text(&self.folder.path().join("faults.so")))
            .environment("FAULTS_ROOT", &text(folder.path()))
            .environment("FAULTS_CONTROL", &text(&control));
        if traced {
            setup = setup.environment("FAULTS_TRACE", &text(&trace));
        }
        let page = OpenOptions::new().read(true).write(true).open(control)?;
        Ok((setup, folder, Steering { page, trace, beside }))
    }
}

/// Makes trouble while the host runs.
pub(super) struct Steering {
    page: File,
    trace: PathBuf,
    beside: TempDir,
}

impl Steering {
    pub(super) fn trace(&self) -> &Path {
        &self.trace
    }

    /// From now on calls on these files fail, each `every`th on the average.
    pub(super) fn fail(&self, fault: Fault, files: u32, every: u32, seed: u64) -> anyhow::Result<()> {
        let number = match fault {
            Fault::None => 0_u32,
            Fault::SyncFails => 1,
            Fault::WriteFails => 2,
            Fault::WriteIsShort => 3,
            Fault::NoRoom => 4,
        };
        let seed = u32::try_from(seed & u64::from(u32::MAX))?;
        // What decides is written last, or first taken away.
        self.page.write_all_at(&0_u32.to_ne_bytes(), 8)?;
        for (place, value) in [(12, files), (16, every), (20, seed), (8, number)] {
            self.page.write_all_at(&value.to_ne_bytes(), place)?;
        }
        Ok(())
    }

    /// How many calls failed so far.
    pub(super) fn injected(&self) -> anyhow::Result<u64> {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, 24)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// The wall clock is so many seconds off from now on.
    pub(super) fn step_clock(&self, seconds: i64) -> anyhow::Result<()> {
        Ok(self.page.write_all_at(&seconds.saturating_mul(1_000_000_000).to_ne_bytes(), 0)?)
    }

    /// Keeps what was written down, for somebody who wants to look.
    pub(super) fn keep(self) -> PathBuf {
        self.beside.keep()
    }
}
