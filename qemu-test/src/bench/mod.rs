//! Measurements, side by side with other programs of the kind in one run, written to `appliance/docs/benchmarks.md`.
//!
//! `migrate` measures moves between processes of this machine, `nested` moves between nested hosts. Both have their order of work from
//! `rounds`: every case with every contestant in turn, over and over, so that what else the machine
//! does meets all of them alike. `case` says what the guest has and does, `choice` which
//! of all that is measured; `contestant` what a contestant can do, `qemu`
//! and `godwit` are the two; `link` is the cable between processes, `stage` has the nested hosts. `conversation` types and reads lines, `witness`
//! understands those of the guest; `surroundings` is what the machine itself tells (time stamps, memory, the work of
//! others) and `statistics` and `page` make a page of it.

mod case;
mod choice;
mod contestant;
mod conversation;
mod godwit;
mod link;
mod migrate;
mod nested;
mod page;
mod qemu;
mod rounds;
mod stage;
mod statistics;
mod surroundings;
mod witness;

pub use choice::{Choice, Plan};
pub use migrate::run as migrate;
pub use nested::run as nested;
pub use page::write;
