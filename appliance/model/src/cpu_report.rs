//! What a host's processor can do, and what a baseline keeps of it for a guest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::diagnosis::Reason;
use features::{FEATURES, Feature};

pub mod comparison;
mod features;

/// One CPUID leaf (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CpuidLeaf {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry, 0 where the leaf has no sub-leaves.
    pub index: u32,
    /// EAX on return.
    pub eax: u32,
    /// EBX on return.
    pub ebx: u32,
    /// ECX on return.
    pub ecx: u32,
    /// EDX on return.
    pub edx: u32,
}

/// A register that CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Eax => "eax",
            Self::Ebx => "ebx",
            Self::Ecx => "ecx",
            Self::Edx => "edx",
        })
    }
}

impl CpuidLeaf {
    /// The value of one register.
    pub fn register(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }

    /// The same, to write.
    pub fn register_mut(&mut self, register: Register) -> &mut u32 {
        match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        }
    }
}

/// Largest difference of two TSC rates that a guest is moved across without scaling, in millionths: what NTP mends in any case.
const TSC_TOLERANCE_PPM: u64 = 250;

/// Whether a guest that knows the TSC by the rate `known` notices that it runs at `here`, both kHz. A rate of 0 is not known.
pub fn tsc_rates_differ(known: u32, here: u32) -> bool {
    let difference = u64::from(here.abs_diff(known));
    known != 0 && here != 0 && difference * 1_000_000 > u64::from(known) * TSC_TOLERANCE_PPM
}

/// What KVM on a host can show a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuReport {
    /// What the processor calls itself, for people.
    pub brand: String,
    /// `GenuineIntel`, `AuthenticAMD`, ...
    pub vendor: String,
    /// Family, model and stepping as displayed values.
    pub signature: [u32; 3],
    /// Rate of the time-stamp counter, kHz.
    pub tsc_khz: u32,
    /// KVM_GET_SUPPORTED_CPUID, sorted by function and index.
    pub leaves: Vec<CpuidLeaf>,
}

impl CpuReport {
    /// The leaf, where the report has it.
    pub fn leaf(&self, function: u32, index: u32) -> Option<&CpuidLeaf> {
        self.leaves.iter().find(|leaf| leaf.function == function && leaf.index == index)
    }

    /// The processor as its makers count it: `AuthenticAMD family 25 model 1`.
    fn family(&self) -> String {
        let [family, model, _] = self.signature;
        format!("{} family {family} model {model}", self.vendor)
    }

    fn has(&self, feature: &Feature) -> bool {
        let leaf = self.leaf(feature.function, feature.index);
        leaf.is_some_and(|leaf| leaf.register(feature.register) & (1 << feature.bit) != 0)
    }

    /// Why a VM with `baseline` that runs on this host cannot go on at `destination`: every feature that it may be
    /// using and the other lacks, by name and place, and a differing vendor.
    pub fn blockers(&self, destination: &Self, destination_name: &str, baseline: Baseline) -> Vec<Reason> {
        let hint = match self.best_common(destination) {
            Some(common) => format!(
                "set cpu_baseline = \"{common}\" in the VM's vm.toml and restart the VM, or choose another host: host list"
            ),
            None => "choose another host: host list".to_owned(),
        };
        let mut reasons = Vec::new();
        if self.vendor != destination.vendor {
            reasons.push(Reason::new(
                format!(
                    "the processors are of different makers: {} here, {} on {destination_name}",
                    self.family(),
                    destination.family()
                ),
                "choose a host with a processor of the same maker: host list",
            ));
        }
        reasons.extend(self.lacking(destination, baseline).into_iter().map(|feature| {
            let what = if feature.name.is_some() { format!("the CPU feature {feature}") } else { feature.to_string() };
            Reason::new(format!("{destination_name} ({}) lacks {what}", destination.family()), &hint)
        }));
        reasons
    }

    /// The features that a VM with `baseline` may be using on this host and that `other` lacks, those with a name first.
    pub fn lacking(&self, other: &Self, baseline: Baseline) -> Vec<FeatureBit> {
        let named = FEATURES.iter().filter(|f| baseline.keeps(f) && self.has(f) && !other.has(f));
        let mut lacking: Vec<FeatureBit> = named.map(FeatureBit::of).collect();
        if baseline == Baseline::Host {
            lacking.extend(self.unnamed_lacking(other));
        }
        lacking
    }

    /// Bits of feature leaves that have no name here but differ all the same.
    fn unnamed_lacking(&self, other: &Self) -> Vec<FeatureBit> {
        let mut lacking = Vec::new();
        for (function, index, register) in UNNAMED_PLACES {
            let missing = self.value(function, index, register) & !other.value(function, index, register);
            let bits = (0..32u8).filter(|bit| missing & (1 << bit) != 0);
            let bits = bits.map(|bit| FeatureBit::at(function, index, register, bit));
            lacking.extend(bits.filter(|feature| feature.name.is_none()));
        }
        lacking
    }

    /// A register of a leaf, 0 where the report has no such leaf.
    fn value(&self, function: u32, index: u32, register: Register) -> u32 {
        self.leaf(function, index).map_or(0, |leaf| leaf.register(register))
    }

    /// The features that the baseline asks for and the host lacks; where there are none, a VM with it can start there.
    pub fn lacking_for(&self, baseline: Baseline) -> Vec<FeatureBit> {
        let wanted =
            FEATURES.iter().filter(|f| f.level.is_some_and(|level| baseline.level().is_some_and(|l| level <= l)));
        wanted.filter(|f| !self.has(f)).map(FeatureBit::of).collect()
    }

    /// Whether the host has every feature that the baseline asks for, so that a VM with it can start.
    pub fn missing_for(&self, baseline: Baseline) -> Vec<Reason> {
        let hint = "choose a lower cpu_baseline in the VM's vm.toml, or another host: host list";
        let missing = self.lacking_for(baseline).into_iter();
        missing
            .map(|f| Reason::new(format!("this host lacks the CPU feature {f}, which {baseline} asks for"), hint))
            .collect()
    }

    /// The highest named baseline that both hosts have in full.
    pub fn best_common(&self, other: &Self) -> Option<Baseline> {
        Baseline::best_of(&[self, other])
    }
}

/// Registers whose bits are features of which not all have a name in [`FEATURES`]; a guest that sees everything may use
/// those too.
const UNNAMED_PLACES: [(u32, u32, Register); 9] = [
    (1, 0, Register::Ecx),
    (1, 0, Register::Edx),
    (7, 0, Register::Ebx),
    (7, 0, Register::Ecx),
    (7, 0, Register::Edx),
    (7, 1, Register::Eax),
    (0xd, 1, Register::Eax),
    (0x8000_0001, 0, Register::Ecx),
    (0x8000_0001, 0, Register::Edx),
];

/// A feature by its place, and by its name where it has one here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FeatureBit {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry.
    pub index: u32,
    /// Which register.
    pub register: Register,
    /// Which bit of it, 0 to 31.
    pub bit: u8,
    /// Its name: `avx2`.
    pub name: Option<String>,
}

impl FeatureBit {
    fn of(feature: &Feature) -> Self {
        let Feature { name, function, index, register, bit, .. } = *feature;
        Self { function, index, register, bit, name: Some(name.to_owned()) }
    }

    fn at(function: u32, index: u32, register: Register, bit: u8) -> Self {
        let unnamed = Self { function, index, register, bit, name: None };
        unnamed.known().map_or(unnamed, Self::of)
    }

    fn known(&self) -> Option<&'static Feature> {
        let place = (self.function, self.index, self.register, self.bit);
        FEATURES.iter().find(|f| (f.function, f.index, f.register, f.bit) == place)
    }
}

impl fmt::Display for FeatureBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, index, register, bit, name } = self;
        match name {
            Some(name) if *index == 0 => write!(f, "{name} (CPUID leaf {function:#x}, {register} bit {bit})"),
            Some(name) => write!(f, "{name} (CPUID leaf {function:#x} sub-leaf {index}, {register} bit {bit})"),
            None => {
                write!(f, "an unnamed CPU feature (CPUID leaf {function:#x} sub-leaf {index}, {register} bit {bit})")
            }
        }
    }
}

/// What of the host's processor a guest sees: all, or a level of the x86-64 psABI (section 3.1.1) with what every
/// such guest needs beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    /// Everything that KVM supports here.
    Host,
    /// x86-64, the first.
    V1,
    /// SSE4.2, POPCNT, CMPXCHG16B.
    #[default]
    V2,
    /// AVX2, BMI, FMA.
    V3,
    /// AVX-512 F, BW, CD, DQ, VL.
    V4,
}

impl Baseline {
    /// All of them, the one that hides most first.
    pub const ALL: [Self; 5] = [Self::V1, Self::V2, Self::V3, Self::V4, Self::Host];

    /// The highest named baseline that all of these hosts have in full.
    pub fn best_of(reports: &[&CpuReport]) -> Option<Self> {
        let common = |baseline: &Self| reports.iter().all(|report| report.lacking_for(*baseline).is_empty());
        [Self::V4, Self::V3, Self::V2, Self::V1].into_iter().find(common)
    }

    /// The named baselines above this one, the next first.
    pub fn higher(self) -> Vec<Self> {
        let level = self.level();
        Self::ALL.into_iter().filter(|other| level.is_some() && other.level() > level).collect()
    }

    /// Whether a guest sees this feature where its host has it, so that it may be using it.
    pub fn shows(self, feature: &FeatureBit) -> bool {
        let FeatureBit { function, index, register, .. } = *feature;
        match feature.known() {
            Some(known) => self.keeps(known),
            None => self == Self::Host && UNNAMED_PLACES.contains(&(function, index, register)),
        }
    }

    fn level(self) -> Option<u8> {
        match self {
            Self::Host => None,
            Self::V1 => Some(1),
            Self::V2 => Some(2),
            Self::V3 => Some(3),
            Self::V4 => Some(4),
        }
    }

    /// Whether the guest sees the feature where the host has it.
    fn keeps(self, feature: &Feature) -> bool {
        let Some(level) = self.level() else { return true };
        feature.neutral || feature.level.is_some_and(|needed| needed <= level)
    }

    /// Clears every feature bit that this baseline hides, in the leaves that hold features. Leaves that only
    /// describe (topology, caches, addresses) are left to the VMM.
    pub fn filter(self, leaves: &mut Vec<CpuidLeaf>) {
        if self == Self::Host {
            return;
        }
        for leaf in leaves.iter_mut() {
            for register in feature_registers(leaf.function, leaf.index) {
                let kept = FEATURES
                    .iter()
                    .filter(|f| (f.function, f.index, f.register) == (leaf.function, leaf.index, *register));
                let mask = kept.filter(|f| self.keeps(f)).fold(0u32, |mask, f| mask | 1 << f.bit);
                *leaf.register_mut(*register) &= mask;
            }
        }
        let xsave = self.level().is_some_and(|level| level >= 3);
        leaves.retain(|leaf| match (leaf.function, leaf.index) {
            // Without XSAVE the state components do not exist for the guest; v3 knows x87, SSE and AVX (0 to 2),
            // v4 the three of AVX-512 (5 to 7) too.
            (0xd, index) => xsave && (index <= 2 || (self == Self::V4 && (5..=7).contains(&index))),
            (7, index) => index == 0,
            (0x10 | 0x12 | 0x14 | 0x17..=0x1e | 0x20..=0x24, _) => false,
            (0x8000_001b..=0x8000_001c | 0x8000_001f..=0x8000_00ff, _) => false,
            _ => true,
        });
        for leaf in leaves.iter_mut().filter(|leaf| leaf.function == 0xd && leaf.index == 0) {
            leaf.eax &= if self == Self::V4 { 0xe7 } else { 0x7 };
            leaf.edx = 0;
        }
    }
}

/// Registers of a leaf that hold nothing but feature bits.
fn feature_registers(function: u32, index: u32) -> &'static [Register] {
    use Register::{Eax, Ebx, Ecx, Edx};
    match (function, index) {
        (1, _) | (0x8000_0001, _) => &[Ecx, Edx],
        (7, 0) => &[Ebx, Ecx, Edx],
        (0xd, 1) => &[Eax],
        (6, _) => &[Eax, Ebx, Ecx, Edx],
        (0x8000_0007, _) => &[Ebx, Edx],
        (0x8000_0008, _) => &[Ebx],
        (0x8000_000a, _) => &[Edx],
        (0x8000_0021, _) => &[Eax],
        _ => &[],
    }
}

impl FromStr for Baseline {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => Ok(Self::Host),
            "x86-64-v1" => Ok(Self::V1),
            "x86-64-v2" => Ok(Self::V2),
            "x86-64-v3" => Ok(Self::V3),
            "x86-64-v4" => Ok(Self::V4),
            _ => Err("write \"host\" or \"x86-64-v1\" to \"x86-64-v4\""),
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::V1 => "x86-64-v1",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has every named feature up to a level of the psABI.
    pub(super) fn host(level: u8) -> CpuReport {
        let mut leaves: Vec<CpuidLeaf> = Vec::new();
        for feature in FEATURES.iter().filter(|f| f.neutral || f.level.is_some_and(|l| l <= level)) {
            let known = leaves.iter().position(|l| l.function == feature.function && l.index == feature.index);
            let at = known.unwrap_or_else(|| {
                leaves.push(CpuidLeaf { function: feature.function, index: feature.index, ..CpuidLeaf::default() });
                leaves.len() - 1
            });
            *leaves[at].register_mut(feature.register) |= 1 << feature.bit;
        }
        let vendor = "AuthenticAMD".to_owned();
        CpuReport { brand: String::new(), vendor, signature: [25, 1, 1], tsc_khz: 2_000_000, leaves }
    }

    #[test]
    fn two_tsc_rates_differ_where_a_clock_would_show_it() {
        assert!(!tsc_rates_differ(2_000_000, 2_000_500) && !tsc_rates_differ(2_000_500, 2_000_000));
        assert!(tsc_rates_differ(2_000_000, 2_000_501) && tsc_rates_differ(2_450_000, 2_000_000));
        assert!(!tsc_rates_differ(0, 2_000_000) && !tsc_rates_differ(2_000_000, 0), "one that is not known");
    }

    #[test]
    fn each_missing_feature_is_named_with_its_place() {
        let reasons = host(4).blockers(&host(2), "host-b", Baseline::V3);
        let avx2 = reasons.iter().find(|reason| reason.cause.contains("avx2 ")).expect("avx2 is named");
        assert_eq!(
            avx2.cause,
            "host-b (AuthenticAMD family 25 model 1) lacks the CPU feature avx2 (CPUID leaf 0x7, ebx bit 5)"
        );
        assert!(avx2.hint.contains("x86-64-v2"), "{}", avx2.hint);
        assert!(!reasons.iter().any(|reason| reason.cause.contains("avx512f")), "the baseline hides it");
    }

    #[test]
    fn a_vm_with_a_baseline_that_both_hosts_have_may_go() {
        assert_eq!(host(4).blockers(&host(3), "host-b", Baseline::V3), []);
        assert_eq!(host(4).blockers(&host(2), "host-b", Baseline::V2), []);
        assert_ne!(host(4).blockers(&host(3), "host-b", Baseline::Host), []);
    }

    #[test]
    fn a_guest_sees_no_feature_above_its_baseline() {
        let mut leaves = host(4).leaves;
        leaves.push(CpuidLeaf { function: 1, ecx: u32::MAX, edx: u32::MAX, ..CpuidLeaf::default() });
        Baseline::V2.filter(&mut leaves);
        let guest = CpuReport { leaves, ..host(1) };
        for feature in FEATURES.iter().filter(|f| !f.neutral) {
            assert_eq!(guest.has(feature), feature.level.is_some_and(|level| level <= 2), "{}", feature.name);
        }
    }

    #[test]
    fn a_host_that_lacks_a_feature_of_the_baseline_cannot_start_the_vm() {
        assert!(host(2).missing_for(Baseline::V2).is_empty());
        assert!(!host(2).missing_for(Baseline::V3).is_empty());
    }
}
