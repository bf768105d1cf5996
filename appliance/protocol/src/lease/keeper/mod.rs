//! Everything that one host does about the leases of one datastore.
//!
//! Call order: [`Keeper::new`], then [`Keeper::handle_input`] for each input and [`Keeper::handle_timeout`] at
//! [`Keeper::poll_timeout`]; after each of them drain [`Keeper::poll_effect`]. Every [`Io`] is answered once with
//! [`Input::IoEnded`]; one that hangs is answered as failed after `LEASE_IO_BOUND_MS`.
//!
//! A block that an earlier write may still reach is not written: after a failed write its bank rests for
//! `LEASE_SETTLE_MS`, and so do all banks when an earlier process of this boot may have left writes behind.
//!
//! In reading order: [`io`] is the I/O that is to be done; `rest` says when a bank may be written again; `requests` are
//! the requests under way; [`machine`] is the machine.

pub mod io;
pub mod machine;
mod requests;
mod rest;

pub use io::{Access, Io, IoId, IoResult, Lane};
pub use machine::{Effect, HostView, Input, Keeper};
pub use requests::RequestId;
