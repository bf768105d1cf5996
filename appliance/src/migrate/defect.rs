//! What goes wrong inside this host, as people read it.

use model::diagnosis::Reason;

use crate::api::channel::ChannelError;

/// Something that only a defect of this host, or its lack of memory, explains.
pub fn defect(cause: impl Into<String>) -> Reason {
    Reason::new(cause, "log show migrate")
}

/// Why nothing more of a guest will be answered.
pub fn monitor_gone(error: &ChannelError) -> String {
    format!("the VM's monitor is gone: {error}")
}
