//! What `host cpu` answers about the processors of several hosts.

use std::collections::BTreeMap;

use model::cpu_report::comparison::Comparison;
use model::cpu_report::{Baseline, FeatureBit};
use model::diagnosis::Reason;
use model::names::{HostName, VmName};
use serde::{Deserialize, Serialize};

/// To `host cpu --compare HOST`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuComparison {
    /// This host.
    pub here: HostName,
    /// The other.
    pub there: HostName,
    /// Seconds since the other was last heard of, where it is silent: the report is that of then.
    pub silent_s: Option<u64>,
    /// How they differ.
    pub differences: Comparison,
    /// The VMs of the datastores of this host, by what they see of a processor.
    pub vms: Vec<VmsOfBaseline>,
    /// VMs and datastores of which nothing can be said, and why.
    pub unknown: Vec<Reason>,
}

/// The VMs that see the same of a processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmsOfBaseline {
    /// What they see.
    pub baseline: Baseline,
    /// The VMs.
    pub vms: Vec<VmName>,
    /// This host has all that they are to see.
    pub runs_here: bool,
    /// The other has.
    pub runs_there: bool,
    /// They run here, and the processors let them move from this host to the other.
    pub can_go: bool,
    /// And back.
    pub can_come: bool,
}

/// To `host cpu --baseline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedBaseline {
    /// The highest named baseline that all counted hosts have in full.
    pub best: Option<Baseline>,
    /// It as a line of a vm.toml.
    pub vm_toml: Option<String>,
    /// The hosts that are counted: those that live and have told of a processor.
    pub hosts: Vec<HostName>,
    /// The baselines above it, and which of those hosts lack what for each.
    pub higher: Vec<HigherBaseline>,
    /// Hosts that are silent, and are not counted: they may never come back.
    pub silent: Vec<SilentHost>,
    /// Hosts that have told of no processor, because KVM cannot be used there.
    pub without_report: Vec<HostName>,
    /// The counted hosts by the maker of their processors: no VM moves from one maker's to another's.
    pub makers: BTreeMap<String, Vec<HostName>>,
}

/// A baseline that not all hosts have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HigherBaseline {
    /// It.
    pub baseline: Baseline,
    /// The hosts that lack something for it.
    pub lacking: Vec<HostLacks>,
}

/// What a host lacks for a baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLacks {
    /// The host.
    pub host: HostName,
    /// The features.
    pub features: Vec<FeatureBit>,
}

/// A host that is silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentHost {
    /// The host.
    pub host: HostName,
    /// For how many seconds.
    pub silent_s: u64,
    /// The best baseline if it were counted, too.
    pub best_with_it: Option<Baseline>,
    /// What it lacks for the best without it.
    pub lacks: Vec<FeatureBit>,
}
