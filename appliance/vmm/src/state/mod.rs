//! A machine as bytes: a fixed header that every version can read, then typed, versioned, length-bounded chunks.
//!
//! [`chunk`] is the container; what is inside each chunk belongs to whoever exports it (vCPUs, interrupt
//! controllers, clock, devices).

pub mod chunk;

pub use chunk::{ChunkKind, StateError, StateReader, StateWriter, decode, encode};
