//! The threads that plugins run on: none of them takes events in.
//!
//! One instruction of a plugin can take seconds: it fills or copies all of its memory, and nothing interrupts the engine
//! within it. So plugins have threads of their own, behind the host's other threads in the system's order, and more of
//! them than there are processors, so that the system itself divides the processors among them.

use tokio::runtime::{Builder, Handle, Runtime};

/// How far behind the host's other threads, in the system's measure. Enough to be put aside whenever one of those has
/// work; not so much that other programs of the machine leave nothing.
const BEHIND: i32 = 5;

pub(super) struct Threads {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Threads {
    pub(super) fn start() -> std::io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(processors * 2)
            .thread_name("plugin")
            // A system that refuses leaves them where they are.
            .on_thread_start(|| {
                rustix::process::setpriority_process(None, BEHIND).ok();
            })
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // What still runs was given up; it must not be waited for, and this may be an asynchronous context.
            runtime.shutdown_background();
        }
    }
}
