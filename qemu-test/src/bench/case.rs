//! What a guest has and does while it is moved.

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    /// Memory of the guest; all of it is filled with what cannot be compressed.
    pub(super) memory_mib: u32,
    /// Pages that it rewrites a second, anywhere in 256 MiB; 0 for an idle guest.
    pub(super) pages_per_s: u32,
}

/// All cases, in the order of the page.
pub(super) const CASES: [Case; 4] = [
    Case { memory_mib: 512, pages_per_s: 0 },
    Case { memory_mib: 512, pages_per_s: 20_000 },
    Case { memory_mib: 2048, pages_per_s: 0 },
    Case { memory_mib: 2048, pages_per_s: 20_000 },
];

impl Case {
    /// As a reader of the page sees it.
    pub(super) fn title(self) -> String {
        let memory = match self.memory_mib {
            mib if mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
            mib => format!("{mib} MiB"),
        };
        if self.pages_per_s == 0 {
            format!("{memory}, idle")
        } else {
            format!("{memory}, {} pages/s", self.pages_per_s)
        }
    }

    /// The name of a VM of this case.
    pub(super) fn vm_name(self) -> String {
        format!("w-{}-{}", self.memory_mib, self.pages_per_s)
    }

    /// The guest's memory in bytes.
    pub(super) fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// The witness's command line. It does not verify while it is timed, which would take the processor from the move; it
    /// is told to verify everything afterwards. It does not nap either: it looks at the TSC without a pause.
    pub(super) fn cmdline(self) -> String {
        match self.pages_per_s {
            0 => "report_ms=0 verify=off start=idle".into(),
            rate => format!("report_ms=0 verify=off rate={rate} set=256M"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_title_and_a_vm_of_its_own() {
        assert_eq!(CASES[0].title(), "512 MiB, idle");
        assert_eq!(CASES[3].title(), "2 GiB, 20000 pages/s");
        let names: std::collections::BTreeSet<_> = CASES.iter().map(|case| case.vm_name()).collect();
        assert_eq!(names.len(), CASES.len());
    }
}
