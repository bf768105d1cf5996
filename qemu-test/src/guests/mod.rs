//! What runs in VMs: the example VMs of `config/examples/`, put on a datastore with their files.
//!
//! `debian` makes a small but real Debian (its own kernel, its own root file system), `database` one with PostgreSQL and asks it
//! from outside, `witness` builds the guest kernel of
//! this tree, `examples` puts both on a datastore, `client` talks to a Debian guest from outside and judges what it hears, `echo` to a
//! witness.

mod client;
mod database;
mod debian;
mod echo;
mod examples;
mod witness;

pub use client::{Hearing, Talker, answers, ask_off, memory_report, set_memory_load};
pub use database::{Committed, Database, Ledger, Workload};
pub use debian::{JOURNAL_BYTES, build as build_debian};
pub use echo::Echo;
pub use examples::{Example, audit_journal, equip_small_witness, place_all, place_small_witness, witness_called};
pub use witness::build as build_witness;
