//! A program together with everything that it starts: given up, all of it ends.
//!
//! Cargo's compilers would go on for minutes if only cargo were ended. The price of a group of its own: Ctrl-C in a
//! terminal does not reach it, so whoever waits has to drop it then.

use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// A running program.
pub(super) struct Group {
    child: Child,
    /// Its number as long as it has not been waited for: later the number may be another's.
    running: Option<Pid>,
}

impl Group {
    pub(super) fn spawn(command: &mut Command) -> Result<Self, std::io::Error> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let running = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, running })
    }

    /// What it prints; once only, and only what was asked for as pipes.
    pub(super) fn outputs(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    pub(super) async fn wait(&mut self) -> Result<ExitStatus, std::io::Error> {
        let status = self.child.wait().await?;
        self.running = None;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.running {
            // It may have ended by itself in this moment.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    #[tokio::test]
    async fn what_a_given_up_program_started_does_not_go_on() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped());
        let mut group = Group::spawn(&mut command).unwrap();
        let mut line = String::new();
        BufReader::new(group.outputs().0.unwrap()).read_line(&mut line).await.unwrap();
        let started = std::path::PathBuf::from(format!("/proc/{}/stat", line.trim()));
        assert!(started.exists());
        drop(group);
        // Nobody may be there to bury it: a zombie has ended too.
        let ended = || std::fs::read_to_string(&started).map_or(true, |stat| stat.contains(") Z "));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !ended() {
            assert!(std::time::Instant::now() < deadline, "it goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
