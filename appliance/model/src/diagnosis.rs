//! How a refusal or a failure speaks to a person: what failed, where the VM is now, every cause, a hint for each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One reason, with the command or change that mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The cause, a sentence without a full stop.
    pub cause: String,
    /// What to do about it; a command where there is one. Empty where nothing can be said.
    pub hint: String,
}

impl Reason {
    /// A cause and what mends it.
    pub fn new(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { cause: cause.into(), hint: hint.into() }
    }
}

/// What failed and all reasons for it at once (DESIGN.md, promise 7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Diagnosis {
    /// What failed: `VM web was not migrated`.
    pub what: String,
    /// Where the VM is *now*, where the failure concerns one: `it is still running on host-a`.
    pub vm_now: Option<String>,
    /// Every reason, at least one.
    pub reasons: Vec<Reason>,
}

impl Diagnosis {
    /// A failure with one cause and a hint.
    pub fn new(what: impl Into<String>, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::of(what, vec![Reason::new(cause, hint)])
    }

    /// A failure with all its reasons.
    pub fn of(what: impl Into<String>, reasons: Vec<Reason>) -> Self {
        Self { what: what.into(), vm_now: None, reasons }
    }

    /// The same, saying where the VM is now: `it is still running on host-a`.
    #[must_use]
    pub fn vm_now(mut self, place: impl Into<String>) -> Self {
        self.vm_now = Some(place.into());
        self
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(place) = &self.vm_now {
            write!(f, "; {place}")?;
        }
        for Reason { cause, hint } in &self.reasons {
            write!(f, "\ncause: {cause}")?;
            if !hint.is_empty() {
                write!(f, "\nhint:  {hint}")?;
            }
        }
        Ok(())
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the file cannot be read")]
    struct Unreadable(#[source] std::fmt::Error);

    #[test]
    fn an_error_tells_its_causes() {
        let inner = std::fmt::Error;
        assert_eq!(chain(&Unreadable(inner)), format!("the file cannot be read: {inner}"));
    }

    #[test]
    fn a_refusal_names_what_where_and_every_reason_with_its_mend() {
        let refusal = Diagnosis::of(
            "VM web was not migrated",
            vec![
                Reason::new(
                    "host-b lacks the CPU feature avx2",
                    "vm edit web --cpu-baseline x86-64-v2, then restart web",
                ),
                Reason::new("host-b has no port group \"lab\"", "on host-b: network port-group add lab"),
            ],
        )
        .vm_now("it is still running on host-a");
        assert_eq!(
            refusal.to_string(),
            "error: VM web was not migrated; it is still running on host-a\n\
             cause: host-b lacks the CPU feature avx2\n\
             hint:  vm edit web --cpu-baseline x86-64-v2, then restart web\n\
             cause: host-b has no port group \"lab\"\n\
             hint:  on host-b: network port-group add lab"
        );
    }
}
