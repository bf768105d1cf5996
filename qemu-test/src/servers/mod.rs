//! Storage servers on this machine: one file each. They run inside the lab's network namespace, on the datastore wire.

mod ganesha;

pub use ganesha::Ganesha;
