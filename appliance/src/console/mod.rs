//! The console: one process on each terminal. It knows what can be asked ([`command`]), how answers look
//! ([`render`]), and nothing of how anything is done.
//!
//! [`session`] reads lines and runs them, [`complete`] offers what may come next, [`ask`] carries a request to the
//! control plane and shows its progress, [`by_init`] ends the host where that does not answer, [`attach`] joins the terminal to a guest's serial port, [`news`] shows
//! above the prompt what happens by itself, and [`terminal`] switches the terminal's modes.

pub mod ask;
pub mod attach;
mod by_init;
pub mod command;
pub mod complete;
pub mod news;
pub mod render;
pub mod session;
pub mod terminal;
