//! The CRM stand-in as a program: starts it, prints its address, runs until it is interrupted.
//!
//! - Standard output gets exactly one line, the address, as soon as the program is ready for requests.
//! - Everything it does is in the library's `stand_in`; nothing is stored beyond its run.

use std::io::Write as _;

use clap::{Parser, ValueEnum};
use integration_tests::stand_in::{Hook, Options, Shape, StandIn};

/// An imitation of SalesMan CRM for demos and tests.
#[derive(Debug, Parser)]
#[command(name = "crm-stand-in", version)]
struct Arguments {
    /// The port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The key that REST calls must bring.
    #[arg(long, env = "CRM_STAND_IN_API_KEY", default_value = "stand-in-key", hide_env_values = true)]
    api_key: String,
    /// How many requests are worked on at once.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// An address that gets every event; can be given several times.
    #[arg(long, value_name = "URL")]
    hook: Vec<String>,
    /// How events look on the wire.
    #[arg(long, value_enum, default_value_t = HookShape::Form)]
    shape: HookShape,
    /// Start with a few clients, contacts and deals.
    #[arg(long)]
    demo_data: bool,
}

/// The shapes by the names of the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum HookShape {
    /// Direct events: a form post.
    Form,
    /// The same pairs in the query of a GET.
    Query,
    /// Webhooks: JSON.
    Webhook,
}

impl From<HookShape> for Shape {
    fn from(shape: HookShape) -> Self {
        match shape {
            HookShape::Form => Self::Form,
            HookShape::Query => Self::Query,
            HookShape::Webhook => Self::Webhook,
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let shape = Shape::from(arguments.shape);
    let hooks = arguments.hook.into_iter().map(|url| Hook::new(url, shape)).collect();
    let options = Options {
        api_key: arguments.api_key,
        port: arguments.port,
        workers: arguments.workers,
        hooks,
        demo_data: arguments.demo_data,
        ..Options::default()
    };
    let stand_in = StandIn::start(options).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", stand_in.base_url())?;
    out.flush()?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
