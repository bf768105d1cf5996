//! What the lab needs on the machine it runs on, and how it gets there: a fresh Debian 12 or 13 needs nothing but Rust.
//!
//! `needs` lists programs and files with the package that brings each, by purpose; `debian` installs what is missing, or
//! says what to install and stops. Nothing is asked of apt when nothing is missing.

mod debian;
mod needs;

pub use debian::{apt_source, backports_suite, ensure};
pub use needs::Purpose;
