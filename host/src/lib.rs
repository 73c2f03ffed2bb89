//! SalesMan Plugin Host: an event of the CRM comes in, is stored, and runs through sandboxed plugins.
//!
//! The modules stand in reading order. First the words, without any input or output; then the rooms on an event's path,
//! in the order in which it passes them; then what stands around the path. `ARCHITECTURE.md` holds the invariants and
//! which room may use which.

// -- words
pub mod clock;
pub mod event;
pub mod files;
pub mod outcome;
pub mod plugin;
pub mod secret;
pub mod sender;
pub mod text;

// -- the path of an event
pub mod capabilities;
mod contract;
pub mod crm;
pub mod dispatcher;
pub mod ingress;
pub mod journal;
pub mod sandbox;

// -- around the path
pub mod alerts;
pub mod app;
pub mod cli;
pub mod config;
pub mod console;
pub mod events_php;
pub mod health;
pub mod parts;
pub mod registry;
pub mod server;
pub mod telemetry;
mod tls;
pub mod traces;
pub mod watch;
pub mod workshop;
