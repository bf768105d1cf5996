//! The nouns of Godwit: values that are valid once they exist, and nothing that touches the world.
//!
//! In reading order: [`units`], [`names`] and [`limits`] are the small change; [`diagnosis`] is how a refusal
//! speaks to a person; [`config_tree`] reads configuration texts and remembers where every value stood;
//! [`vm_config`] and [`host_config`] are what those texts say; [`cpu_report`] is what a host's processor can do
//! and what a baseline keeps of it; [`receipt`] is what a migration leaves behind.
#![forbid(unsafe_code)]

pub mod config_tree;
pub mod cpu_report;
pub mod diagnosis;
pub mod host_config;
pub mod limits;
pub mod names;
pub mod receipt;
mod text_type;
pub mod units;
pub mod vm_config;
