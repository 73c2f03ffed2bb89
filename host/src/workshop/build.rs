//! A plugin's folder to a plugin's file.

pub mod foreign;
mod js;
mod python;
