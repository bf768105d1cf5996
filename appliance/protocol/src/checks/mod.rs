//! Whether a VM can move from one host to another: every condition is judged, and every reason against it is told at
//! once (DESIGN.md, sections 1 and 9).
//!
//! A condition is a file with one pure function from [`Conditions`], the facts of both hosts and the link between
//! them, to findings. A new condition is a new file and a line in [`judge::CONDITIONS`]. [`facts`] are the nouns,
//! [`mod@judge`] asks all conditions, and the rest are the conditions, one a file. Two are judged elsewhere: [`versions`] on the hello, and
//! [`physical_network`] by the source, which learns with the answer what the destination heard.

pub mod affinity;
pub mod cpu_features;
pub mod facts;
pub mod internal_vswitch;
pub mod judge;
pub mod link;
pub mod local_media;
pub mod maintenance;
pub mod memory;
pub mod physical_network;
pub mod place;
pub mod port_groups;
pub mod slot;
pub mod storage;
pub mod versions;

pub use judge::{Conditions, FINDINGS_MAX, Finding, Judged, Severity, blockers, by_condition, judge, refusal};
