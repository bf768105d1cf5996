//! Names and places of CPU features (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E), the level of the
//! x86-64 psABI that asks for each, and which of them every guest may see.

use std::fmt;

use super::Register::{self, Eax, Ebx, Ecx, Edx};

/// One feature bit.
pub(super) struct Feature {
    pub(super) name: &'static str,
    pub(super) function: u32,
    pub(super) index: u32,
    pub(super) register: Register,
    pub(super) bit: u8,
    /// The level of the psABI that asks for it.
    pub(super) level: Option<u8>,
    /// Seen under every baseline where the host has it: needed by kernels, made by KVM, or a mitigation.
    pub(super) neutral: bool,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (CPUID leaf {:#x}", self.name, self.function)?;
        if self.index != 0 {
            write!(f, " sub-leaf {}", self.index)?;
        }
        write!(f, ", {} bit {})", self.register, self.bit)
    }
}

const fn level(name: &'static str, function: u32, register: Register, bit: u8, level: u8) -> Feature {
    Feature { name, function, index: 0, register, bit, level: Some(level), neutral: false }
}

const fn neutral(name: &'static str, function: u32, register: Register, bit: u8) -> Feature {
    Feature { name, function, index: 0, register, bit, level: None, neutral: true }
}

const fn extra(name: &'static str, function: u32, index: u32, register: Register, bit: u8) -> Feature {
    Feature { name, function, index, register, bit, level: None, neutral: false }
}

const EXT: u32 = 0x8000_0001;

pub(super) const FEATURES: &[Feature] = &[
    level("fpu", 1, Edx, 0, 1),
    neutral("vme", 1, Edx, 1),
    neutral("de", 1, Edx, 2),
    neutral("pse", 1, Edx, 3),
    neutral("tsc", 1, Edx, 4),
    neutral("msr", 1, Edx, 5),
    neutral("pae", 1, Edx, 6),
    neutral("mce", 1, Edx, 7),
    level("cx8", 1, Edx, 8, 1),
    neutral("apic", 1, Edx, 9),
    neutral("sep", 1, Edx, 11),
    neutral("mtrr", 1, Edx, 12),
    neutral("pge", 1, Edx, 13),
    neutral("mca", 1, Edx, 14),
    level("cmov", 1, Edx, 15, 1),
    neutral("pat", 1, Edx, 16),
    neutral("pse36", 1, Edx, 17),
    neutral("clflush", 1, Edx, 19),
    level("mmx", 1, Edx, 23, 1),
    level("fxsr", 1, Edx, 24, 1),
    level("sse", 1, Edx, 25, 1),
    level("sse2", 1, Edx, 26, 1),
    neutral("ht", 1, Edx, 28),
    level("sse3", 1, Ecx, 0, 2),
    extra("pclmulqdq", 1, 0, Ecx, 1),
    extra("monitor", 1, 0, Ecx, 3),
    extra("vmx", 1, 0, Ecx, 5),
    level("ssse3", 1, Ecx, 9, 2),
    level("fma", 1, Ecx, 12, 3),
    level("cx16", 1, Ecx, 13, 2),
    extra("pcid", 1, 0, Ecx, 17),
    level("sse4.1", 1, Ecx, 19, 2),
    level("sse4.2", 1, Ecx, 20, 2),
    neutral("x2apic", 1, Ecx, 21),
    level("movbe", 1, Ecx, 22, 3),
    level("popcnt", 1, Ecx, 23, 2),
    neutral("tsc-deadline", 1, Ecx, 24),
    extra("aes", 1, 0, Ecx, 25),
    level("xsave", 1, Ecx, 26, 3),
    level("avx", 1, Ecx, 28, 3),
    level("f16c", 1, Ecx, 29, 3),
    extra("rdrand", 1, 0, Ecx, 30),
    neutral("hypervisor", 1, Ecx, 31),
    extra("fsgsbase", 7, 0, Ebx, 0),
    neutral("tsc-adjust", 7, Ebx, 1),
    level("bmi1", 7, Ebx, 3, 3),
    extra("hle", 7, 0, Ebx, 4),
    level("avx2", 7, Ebx, 5, 3),
    extra("smep", 7, 0, Ebx, 7),
    level("bmi2", 7, Ebx, 8, 3),
    extra("erms", 7, 0, Ebx, 9),
    extra("invpcid", 7, 0, Ebx, 10),
    extra("rtm", 7, 0, Ebx, 11),
    level("avx512f", 7, Ebx, 16, 4),
    level("avx512dq", 7, Ebx, 17, 4),
    extra("rdseed", 7, 0, Ebx, 18),
    extra("adx", 7, 0, Ebx, 19),
    extra("smap", 7, 0, Ebx, 20),
    extra("avx512ifma", 7, 0, Ebx, 21),
    extra("clflushopt", 7, 0, Ebx, 23),
    extra("clwb", 7, 0, Ebx, 24),
    level("avx512cd", 7, Ebx, 28, 4),
    extra("sha", 7, 0, Ebx, 29),
    level("avx512bw", 7, Ebx, 30, 4),
    level("avx512vl", 7, Ebx, 31, 4),
    extra("avx512vbmi", 7, 0, Ecx, 1),
    extra("umip", 7, 0, Ecx, 2),
    extra("pku", 7, 0, Ecx, 3),
    extra("avx512vbmi2", 7, 0, Ecx, 6),
    extra("cet-ss", 7, 0, Ecx, 7),
    extra("gfni", 7, 0, Ecx, 8),
    extra("vaes", 7, 0, Ecx, 9),
    extra("vpclmulqdq", 7, 0, Ecx, 10),
    extra("avx512vnni", 7, 0, Ecx, 11),
    extra("avx512bitalg", 7, 0, Ecx, 12),
    extra("avx512-vpopcntdq", 7, 0, Ecx, 14),
    extra("la57", 7, 0, Ecx, 16),
    extra("rdpid", 7, 0, Ecx, 22),
    extra("fsrm", 7, 0, Edx, 4),
    neutral("md-clear", 7, Edx, 10),
    extra("serialize", 7, 0, Edx, 14),
    extra("cet-ibt", 7, 0, Edx, 20),
    extra("amx-bf16", 7, 0, Edx, 22),
    extra("amx-tile", 7, 0, Edx, 24),
    extra("amx-int8", 7, 0, Edx, 25),
    neutral("spec-ctrl", 7, Edx, 26),
    neutral("stibp", 7, Edx, 27),
    neutral("flush-l1d", 7, Edx, 28),
    neutral("arch-capabilities", 7, Edx, 29),
    neutral("ssbd", 7, Edx, 31),
    extra("avx-vnni", 7, 1, Eax, 4),
    extra("avx512-bf16", 7, 1, Eax, 5),
    Feature { name: "arat", function: 6, index: 0, register: Eax, bit: 2, level: None, neutral: true },
    extra("xsaveopt", 0xd, 1, Eax, 0),
    extra("xsavec", 0xd, 1, Eax, 1),
    extra("xgetbv1", 0xd, 1, Eax, 2),
    extra("xsaves", 0xd, 1, Eax, 3),
    level("lahf", EXT, Ecx, 0, 2),
    extra("svm", EXT, 0, Ecx, 2),
    neutral("cr8-legacy", EXT, Ecx, 4),
    level("lzcnt", EXT, Ecx, 5, 3),
    extra("sse4a", EXT, 0, Ecx, 6),
    extra("misalignsse", EXT, 0, Ecx, 7),
    extra("prefetchw", EXT, 0, Ecx, 8),
    extra("osvw", EXT, 0, Ecx, 9),
    extra("xop", EXT, 0, Ecx, 11),
    extra("fma4", EXT, 0, Ecx, 16),
    extra("tbm", EXT, 0, Ecx, 21),
    extra("topoext", EXT, 0, Ecx, 22),
    extra("perfctr-core", EXT, 0, Ecx, 23),
    level("syscall", EXT, Edx, 11, 1),
    neutral("nx", EXT, Edx, 20),
    extra("mmxext", EXT, 0, Edx, 22),
    extra("fxsr-opt", EXT, 0, Edx, 25),
    extra("pdpe1gb", EXT, 0, Edx, 26),
    extra("rdtscp", EXT, 0, Edx, 27),
    neutral("long-mode", EXT, Edx, 29),
    neutral("invariant-tsc", 0x8000_0007, Edx, 8),
    extra("clzero", 0x8000_0008, 0, Ebx, 0),
    neutral("ibpb", 0x8000_0008, Ebx, 12),
    neutral("ibrs", 0x8000_0008, Ebx, 14),
    neutral("stibp-amd", 0x8000_0008, Ebx, 15),
    neutral("ssbd-amd", 0x8000_0008, Ebx, 24),
    neutral("virt-ssbd", 0x8000_0008, Ebx, 25),
    neutral("ssb-no", 0x8000_0008, Ebx, 26),
];
