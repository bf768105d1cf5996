//! The little that needs ring 0, and the way there and back.
//!
//! ```text
//!  ring 3 (Rust, native) -- ud2 --> gate stub -- iretq --> ring 3
//!         ^------------ iretq ----- tick stub <-- LAPIC timer
//!         ^--- landing, with record - fault stub <-- anything else
//! ```
//!
//! Where ring 0 is emulated instruction by instruction (KVM without VMX or SVM) a stub of twenty instructions costs ten
//! microseconds, so no Rust runs there. From ring 3 `int n` and `syscall` are not usable on such a host; `ud2` is.
//!
//! - [`descriptors`]: GDT, TSS with an I/O bitmap that opens every port to ring 3, IDT.
//! - [`stubs`]: the assembly.
//! - [`gate`]: the calls into ring 0.
//! - [`port`]: port I/O, from ring 3.

pub mod descriptors;
pub mod gate;
pub mod port;
pub mod stubs;
