//! How the processors of two hosts differ, leaf by leaf, and what of it matters to a VM that is to move between them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::features::FEATURES;
use super::{Baseline, CpuReport, FeatureBit, Register, UNNAMED_PLACES, feature_registers};

const REGISTERS: [Register; 4] = [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx];

/// Registers, and bits of them, that tell which of a host's processors was asked (APIC ids) and so differ between two
/// answers of one host.
const WHO_ANSWERED: [(u32, Register, u32); 4] = [
    (0x1, Register::Ebx, 0xff00_0000),
    (0xb, Register::Edx, u32::MAX),
    (0x1f, Register::Edx, u32::MAX),
    (0x8000_001e, Register::Eax, u32::MAX),
];

/// How the reports of two hosts differ; empty where they do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// What the processors say of themselves.
    pub identity: Vec<IdentityDifference>,
    /// Features that one has and the other has not, in the order of their leaves.
    pub features: Vec<FeatureDifference>,
    /// Registers of leaves that describe something, in the order of their leaves.
    pub registers: Vec<RegisterDifference>,
}

/// Something that a processor says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityDifference {
    /// What: `maker`, `family`.
    pub what: String,
    /// On this host.
    pub here: String,
    /// On the other.
    pub there: String,
    /// No VM moves between hosts that differ in it.
    pub matters: bool,
}

/// A feature that only one of two hosts has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureDifference {
    /// The feature.
    pub feature: FeatureBit,
    /// Which has it.
    pub only: Side,
    /// The baselines that show it to a guest: a VM with one of them cannot move from the host that has it to the other.
    pub matters_to: Vec<Baseline>,
}

/// One of two hosts that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// This host.
    Here,
    /// The other.
    There,
}

/// A register of a leaf that describes something, such as caches. No move is refused for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterDifference {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry.
    pub index: u32,
    /// Which register.
    pub register: Register,
    /// What the leaf tells, in words.
    pub about: String,
    /// Its value on this host; absent where it has no such leaf.
    pub here: Option<u32>,
    /// Its value on the other.
    pub there: Option<u32>,
}

impl Comparison {
    /// Compares this host's report with another's.
    pub fn of(here: &CpuReport, there: &CpuReport) -> Self {
        let leaves = here.leaves.iter().chain(&there.leaves).map(|leaf| (leaf.function, leaf.index));
        let places: BTreeSet<(u32, u32)> = leaves.collect();
        let (mut features, mut registers) = (Vec::new(), Vec::new());
        for (function, index) in places {
            for register in REGISTERS {
                if holds_features(function, index, register) {
                    features.extend(feature_differences(here, there, (function, index, register)));
                } else {
                    registers.extend(register_difference(here, there, (function, index, register)));
                }
            }
        }
        Self { identity: identity(here, there), features, registers }
    }

    /// Whether the two show guests the same.
    pub fn is_empty(&self) -> bool {
        self.identity.is_empty() && self.features.is_empty() && self.registers.is_empty()
    }

    /// The features for which a VM with this baseline cannot move from the host that has them to the other.
    pub fn in_the_way(&self, baseline: Baseline, from: Side) -> Vec<&FeatureBit> {
        let features = self.features.iter().filter(|difference| difference.only == from);
        features.filter(|difference| difference.matters_to.contains(&baseline)).map(|d| &d.feature).collect()
    }

    /// Whether no VM can move between the two, whatever its baseline.
    pub fn parts_all(&self) -> bool {
        self.identity.iter().any(|difference| difference.matters)
    }
}

fn identity(here: &CpuReport, there: &CpuReport) -> Vec<IdentityDifference> {
    let told = |report: &CpuReport| {
        let [family, model, stepping] = report.signature;
        let numbers = [family, model, stepping].map(|number| number.to_string());
        let [family, model, stepping] = numbers;
        [report.vendor.clone(), report.brand.clone(), family, model, stepping, format!("{} kHz", report.tsc_khz)]
    };
    let what = ["maker", "processor", "family", "model", "stepping", "TSC"];
    let lines = what.into_iter().zip(told(here)).zip(told(there)).filter(|((_, here), there)| here != there);
    lines
        .map(|((what, here), there)| IdentityDifference {
            what: what.to_owned(),
            here,
            there,
            matters: what == "maker",
        })
        .collect()
}

fn holds_features(function: u32, index: u32, register: Register) -> bool {
    let place = (function, index, register);
    feature_registers(function, index).contains(&register)
        || UNNAMED_PLACES.contains(&place)
        || FEATURES.iter().any(|f| (f.function, f.index, f.register) == place)
}

fn feature_differences(
    here: &CpuReport,
    there: &CpuReport,
    (function, index, register): (u32, u32, Register),
) -> Vec<FeatureDifference> {
    let (here, there) = (here.value(function, index, register), there.value(function, index, register));
    let bits = (0..32u8).filter(|bit| (here ^ there) & (1 << bit) != 0);
    bits.map(|bit| {
        let feature = FeatureBit::at(function, index, register, bit);
        let only = if here & (1 << bit) != 0 { Side::Here } else { Side::There };
        let matters_to = Baseline::ALL.into_iter().filter(|baseline| baseline.shows(&feature)).collect();
        FeatureDifference { feature, only, matters_to }
    })
    .collect()
}

fn register_difference(
    here: &CpuReport,
    there: &CpuReport,
    (function, index, register): (u32, u32, Register),
) -> Option<RegisterDifference> {
    let volatile = WHO_ANSWERED.iter().find(|(f, r, _)| (*f, *r) == (function, register)).map_or(0, |(.., bits)| *bits);
    let value = |report: &CpuReport| report.leaf(function, index).map(|leaf| leaf.register(register) & !volatile);
    let (here, there) = (value(here), value(there));
    // A leaf that is not there says the same as one of zeros.
    (here.unwrap_or(0) != there.unwrap_or(0)).then(|| RegisterDifference {
        function,
        index,
        register,
        about: about(function).to_owned(),
        here,
        there,
    })
}

/// What a leaf tells (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst).
fn about(function: u32) -> &'static str {
    match function {
        0 => "last leaf, and maker",
        0x1 => "family and model",
        0x2 => "caches, as descriptors",
        0x4 | 0x8000_001d => "caches",
        0x5 => "MONITOR and MWAIT",
        0x6 => "power and heat",
        0x7 => "more features: last sub-leaf",
        0xa | 0x23 | 0x8000_0022 => "performance counters",
        0xb | 0x1f | 0x8000_0026 => "topology",
        0xd => "state that XSAVE keeps",
        0xf | 0x10 | 0x8000_0020 => "shares of cache and memory bandwidth",
        0x12 => "SGX",
        0x14 => "processor trace",
        0x15 | 0x16 => "rates of clocks",
        0x18 => "address translation caches",
        0x19 => "key locker",
        0x1a => "kind of core",
        0x1c => "records of branches",
        0x1d | 0x1e => "AMX tiles",
        0x24 => "AVX10",
        0x4000_0000 => "KVM: last leaf, and name",
        0x4000_0001 => "KVM: what it offers guests",
        0x8000_0000 => "last extended leaf",
        0x8000_0001 => "extended signature",
        0x8000_0002..=0x8000_0004 => "name of the processor",
        0x8000_0005 | 0x8000_0006 | 0x8000_0019 => "caches and address translation caches",
        0x8000_0007 => "power management",
        0x8000_0008 => "sizes of addresses",
        0x8000_000a => "nested virtualization",
        0x8000_001a => "hints for fast code",
        0x8000_001b => "sampling of instructions",
        0x8000_001e => "place in the topology",
        0x8000_001f => "encrypted memory",
        0x8000_0021 => "more extended features",
        _ => "not known here",
    }
}

#[cfg(test)]
mod tests {
    use super::super::CpuidLeaf;
    use super::super::tests::host;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_difference_is_told_with_its_place_its_side_and_whom_it_matters_to() {
        let (mut here, mut there) = (host(3), host(2));
        here.tsc_khz = 2_400_000;
        for (report, size) in [(&mut here, 0x30), (&mut there, 0x2e)] {
            report.leaves.push(CpuidLeaf { function: 0x4, index: 3, ebx: size, ..CpuidLeaf::default() });
        }
        // Two that have no name here, and of which one is in a register that guests see in full.
        there.leaves.iter_mut().find(|leaf| leaf.function == 7).expect("a mitigation is there").ecx |= 1 << 31;
        there.leaves.push(CpuidLeaf { function: 0x8000_0021, eax: 1, ..CpuidLeaf::default() });
        let differences = Comparison::of(&here, &there);
        assert_eq!(
            differences.identity,
            [IdentityDifference {
                what: "TSC".to_owned(),
                here: "2400000 kHz".to_owned(),
                there: "2000000 kHz".to_owned(),
                matters: false
            }]
        );
        let of = |name: Option<&str>, bit: u8| {
            let is = |d: &&FeatureDifference| (d.feature.name.as_deref(), d.feature.bit) == (name, bit);
            differences.features.iter().find(is).expect("it differs")
        };
        let avx2 = of(Some("avx2"), 5);
        assert_eq!(avx2.feature.to_string(), "avx2 (CPUID leaf 0x7, ebx bit 5)");
        assert_eq!((avx2.only, &avx2.matters_to[..]), (Side::Here, &[Baseline::V3, Baseline::V4, Baseline::Host][..]));
        let unnamed = of(None, 31);
        assert_eq!((unnamed.only, &unnamed.matters_to[..]), (Side::There, &[Baseline::Host][..]));
        assert_eq!(of(None, 0).matters_to, [], "no guest is refused for it");
        let [cache] = &differences.registers[..] else { panic!("{:?}", differences.registers) };
        assert_eq!((cache.about.as_str(), cache.here, cache.there), ("caches", Some(0x30), Some(0x2e)));
    }

    #[test]
    fn which_processor_of_a_host_was_asked_is_no_difference() {
        let asked = |id: u32| {
            let leaf = |function, ebx, edx| CpuidLeaf { function, ebx, edx, ..CpuidLeaf::default() };
            CpuReport { leaves: vec![leaf(1, id << 24 | 0x0800, 0), leaf(0xb, 0, id)], ..host(1) }
        };
        assert!(Comparison::of(&asked(1), &asked(7)).is_empty());
    }

    /// A report with features, and with other things, by chance.
    fn report() -> impl Strategy<Value = CpuReport> {
        let places = [(1, 0), (4, 0), (7, 0), (7, 1), (0xd, 1), (0x8000_0001, 0), (0x8000_0008, 0), (0x8000_0021, 0)];
        let leaf = proptest::sample::select(places.to_vec());
        // Few bits, so that two reports are often alike in a register.
        let word = prop_oneof![Just(0u32), Just(u32::MAX), (0..32u32).prop_map(|bit| 1 << bit)];
        let leaves = proptest::collection::btree_map(leaf, (word.clone(), word.clone(), word.clone(), word), 0..8);
        (leaves, 0..2usize).prop_map(|(leaves, vendor)| {
            let leaves = leaves.into_iter().map(|((function, index), (eax, ebx, ecx, edx))| CpuidLeaf {
                function,
                index,
                eax,
                ebx,
                ecx,
                edx,
            });
            let vendor = ["GenuineIntel", "AuthenticAMD"][vendor].to_owned();
            CpuReport { vendor, leaves: leaves.collect(), ..host(1) }
        })
    }

    proptest! {
        #[test]
        fn what_is_told_to_matter_to_a_vm_is_what_its_move_is_refused_for(here in report(), there in report()) {
            let differences = Comparison::of(&here, &there);
            for baseline in Baseline::ALL {
                for (side, from, to) in [(Side::Here, &here, &there), (Side::There, &there, &here)] {
                    let told: BTreeSet<FeatureBit> =
                        differences.in_the_way(baseline, side).into_iter().cloned().collect();
                    prop_assert_eq!(&told, &from.lacking(to, baseline).into_iter().collect());
                    let can_move = told.is_empty() && !differences.parts_all();
                    prop_assert_eq!(can_move, from.blockers(to, "host-b", baseline).is_empty());
                }
            }
        }

        #[test]
        fn a_difference_is_the_same_seen_from_the_other_host(here in report(), there in report()) {
            prop_assert!(Comparison::of(&here, &here).is_empty());
            let (seen, back) = (Comparison::of(&here, &there), Comparison::of(&there, &here));
            prop_assert_eq!(seen.is_empty(), back.is_empty());
            for (one, other) in seen.features.iter().zip(&back.features) {
                prop_assert_eq!(&one.feature, &other.feature);
                prop_assert_ne!(one.only, other.only);
            }
            for (one, other) in seen.registers.iter().zip(&back.registers) {
                prop_assert_eq!((one.here, one.there), (other.there, other.here));
            }
        }
    }
}
