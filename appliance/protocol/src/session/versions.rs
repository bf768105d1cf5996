//! Protocol versions: a host speaks its own and the one before.

use std::fmt;

/// A range of protocol versions, oldest to newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    oldest: u16,
    newest: u16,
}

impl Versions {
    /// What this build speaks. Version 1 is the first, so nothing comes before it yet.
    pub const OURS: Self = Self { oldest: 1, newest: 1 };

    /// The range `oldest..=newest`; none if it is empty or holds 0, which is the version of the hello itself.
    pub fn new(oldest: u16, newest: u16) -> Option<Self> {
        (oldest > 0 && oldest <= newest).then_some(Self { oldest, newest })
    }

    /// The oldest.
    pub fn oldest(self) -> u16 {
        self.oldest
    }

    /// The newest.
    pub fn newest(self) -> u16 {
        self.newest
    }

    /// The newest version that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.newest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Versions;

    #[test]
    fn a_host_talks_to_the_version_before_and_after_its_own_and_to_no_other() {
        let host = |newest: u16| Versions::new(newest.saturating_sub(1).max(1), newest).unwrap();
        assert_eq!(host(3).common(host(3)), Some(3));
        assert_eq!(host(3).common(host(2)), Some(2));
        assert_eq!(host(3).common(host(4)), Some(3));
        assert_eq!(host(3).common(host(1)), None);
        assert_eq!(host(3).common(host(5)), None);
        assert_eq!(host(1).common(host(2)), Some(1));
    }
}
