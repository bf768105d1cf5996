//! The one binary of a Godwit host, as a library, so that tests can speak its messages.
//!
//! In reading order: [`api`] is what roles say to each other.

pub mod api;
pub mod console;
