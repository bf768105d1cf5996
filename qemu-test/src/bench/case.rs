//! What a guest has and does while it is moved, how long it may stand still, and who moves it.

/// How fast the guest rewrites pages, anywhere in its working set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    /// Not at all.
    Idle,
    /// So many a second.
    PagesPerS(u32),
    /// As many as its processor can.
    FlatOut,
}

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rivals {
    /// Godwit, as it is by default, and other programs.
    Programs,
    /// Godwit's three depths of verification.
    Depths,
}

/// One case. The page has them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    /// Who takes part.
    pub(super) rivals: Rivals,
    /// Memory of the guest; all of it is filled with what cannot be compressed.
    pub(super) memory_mib: u32,
    /// Its working set.
    pub(super) set_mib: u32,
    /// How fast it rewrites it.
    pub(super) pace: Pace,
    /// The longest that it may stand still, in milliseconds.
    pub(super) stun_ms_max: u32,
}

const MEMORIES_MIB: [u32; 2] = [512, 2048];
const SET_MIB: u32 = 256;
const PACES: [Pace; 4] = [Pace::Idle, Pace::PagesPerS(20_000), Pace::PagesPerS(100_000), Pace::FlatOut];
const STUNS_MS_MAX: [u32; 2] = [50, 300];
/// A guest that outruns the link tells of the link and not of the depths.
const PACES_OF_DEPTHS: [Pace; 2] = [Pace::Idle, Pace::PagesPerS(20_000)];
/// The depth `full` hashes all memory in the stun, which has to fit: what it is expected to take for each MiB, four times.
const STUN_MS_OF_DEPTHS_A_MIB: u32 = 2;

/// An emulated host moves some ten MiB a second.
const NESTED_MEMORY_MIB: u32 = 128;
const NESTED_SET_MIB: u32 = 16;

/// All cases of processes of this machine.
pub(super) fn native() -> Vec<Case> {
    let of = |rivals, paces: &[Pace], stuns: fn(u32) -> Vec<u32>| -> Vec<Case> {
        let memories = MEMORIES_MIB.into_iter();
        memories.flat_map(|memory_mib| product(rivals, memory_mib, SET_MIB, paces, &stuns(memory_mib))).collect()
    };
    let mut all = of(Rivals::Programs, &PACES, |_| STUNS_MS_MAX.to_vec());
    all.extend(of(Rivals::Depths, &PACES_OF_DEPTHS, |memory_mib| vec![memory_mib * STUN_MS_OF_DEPTHS_A_MIB]));
    all
}

/// All cases of nested hosts.
pub(super) fn nested() -> Vec<Case> {
    product(Rivals::Programs, NESTED_MEMORY_MIB, NESTED_SET_MIB, &PACES, &STUNS_MS_MAX)
}

/// The cases of each pace with each stun.
fn product(rivals: Rivals, memory_mib: u32, set_mib: u32, paces: &[Pace], stuns_ms_max: &[u32]) -> Vec<Case> {
    let pairs = paces.iter().flat_map(|pace| stuns_ms_max.iter().map(move |stun_ms_max| (*pace, *stun_ms_max)));
    pairs.map(|(pace, stun_ms_max)| Case { rivals, memory_mib, set_mib, pace, stun_ms_max }).collect()
}

impl Case {
    /// As a reader of the page sees it.
    pub(super) fn title(self) -> String {
        let memory = match self.memory_mib {
            mib if mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
            mib => format!("{mib} MiB"),
        };
        let pace = match self.pace {
            Pace::Idle => "idle".into(),
            Pace::PagesPerS(rate) => format!("{rate} pages/s"),
            Pace::FlatOut => "flat out".into(),
        };
        let rivals = match self.rivals {
            Rivals::Programs => "",
            Rivals::Depths => ", depths",
        };
        format!("{memory}, {pace}, {} ms{rivals}", self.stun_ms_max)
    }

    /// The name of a VM of this case.
    pub(super) fn vm_name(self) -> String {
        let pace = match self.pace {
            Pace::Idle => "idle".into(),
            Pace::PagesPerS(rate) => rate.to_string(),
            Pace::FlatOut => "max".into(),
        };
        format!("w-{}-{pace}-{}", self.memory_mib, self.stun_ms_max)
    }

    /// The guest's memory in bytes.
    pub(super) fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// The witness's command line. It does not verify while it is timed, which would take the processor from the move; it
    /// is told to verify everything afterwards. It does not nap either: it looks at the TSC without a pause.
    pub(super) fn cmdline(self) -> String {
        let set_mib = self.set_mib;
        let pace = match self.pace {
            Pace::Idle => "start=idle".into(),
            Pace::PagesPerS(rate) => format!("rate={rate} set={set_mib}M"),
            Pace::FlatOut => format!("rate=max set={set_mib}M"),
        };
        format!("report_ms=0 verify=off {pace}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_title_and_a_vm_of_its_own() {
        // Their stuns differ from those of all others.
        let cases = native();
        assert_eq!(cases[0].title(), "512 MiB, idle, 50 ms");
        assert_eq!(cases[11].title(), "2 GiB, 20000 pages/s, 300 ms");
        assert_eq!(cases[15].title(), "2 GiB, flat out, 300 ms");
        assert_eq!(cases[16].title(), "512 MiB, idle, 1024 ms, depths");
        assert_eq!(cases[19].title(), "2 GiB, 20000 pages/s, 4096 ms, depths");
        assert_eq!(nested()[3].title(), "128 MiB, 20000 pages/s, 300 ms");
        for cases in [cases, nested()] {
            assert!(cases.is_sorted(), "the page has them in another order");
            for name in [Case::title, Case::vm_name] {
                let names: std::collections::BTreeSet<_> = cases.iter().map(|case| name(*case)).collect();
                assert_eq!(names.len(), cases.len());
            }
        }
    }

    #[test]
    fn a_guest_rewrites_no_more_than_its_working_set_which_fits_into_it() {
        for case in native().into_iter().chain(nested()) {
            assert!(case.set_mib < case.memory_mib, "{}", case.title());
            let told = case.cmdline().contains(&format!(" set={}M", case.set_mib));
            assert_eq!(told, case.pace != Pace::Idle, "{}", case.cmdline());
        }
    }
}
