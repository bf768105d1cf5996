//! The processors of the hosts that share a datastore: how two of them differ and for which VMs that matters, and what all of
//! them have.

use std::collections::BTreeMap;

use model::config_tree::nearest;
use model::cpu_report::comparison::{Comparison, Side};
use model::cpu_report::{Baseline, CpuReport};
use model::diagnosis::{Diagnosis, Reason};
use model::names::{HostName, VmName};

use crate::api::cpu::{CpuComparison, HigherBaseline, HostLacks, SharedBaseline, SilentHost, VmsOfBaseline};
use crate::api::host::HostState;
use crate::host::checks;
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::{self, Blind, Known};
use crate::host::located::{Located, vm_names};

/// The report of this host.
///
/// # Errors
/// KVM cannot be used here.
pub fn own_report(plane: &ControlPlane) -> Result<&CpuReport, Diagnosis> {
    let none = || Diagnosis::of("there is no CPU report", checks::kvm_problem().into_iter().collect());
    plane.cpu.as_ref().ok_or_else(none)
}

/// Compares the processor of this host with that of another.
///
/// # Errors
/// The other is not known, or one of them has no report.
pub fn compare(plane: &ControlPlane, other: &HostName) -> Result<CpuComparison, Diagnosis> {
    let here = own_report(plane)?;
    let known = other_host(plane, other)?;
    let Some(there) = &known.record.cpu else {
        let cause = format!("{other} has told of no processor: KVM cannot be used there");
        return Err(Diagnosis::new(not_compared(plane, other), cause, format!("on {other}: host check")));
    };
    let differences = Comparison::of(here, there);
    let (vms, unknown) = vms_by_baseline(plane);
    let vms = vms.into_iter().map(|(baseline, vms)| {
        let lets = |from| !differences.parts_all() && differences.in_the_way(baseline, from).is_empty();
        let runs = |on: &CpuReport| on.lacking_for(baseline).is_empty();
        let (runs_here, runs_there) = (runs(here), runs(there));
        let (can_go, can_come) = (runs_here && lets(Side::Here), runs_there && lets(Side::There));
        VmsOfBaseline { baseline, vms, runs_here, runs_there, can_go, can_come }
    });
    let vms = vms.collect();
    let silent_s = (!known.state.runs()).then_some(known.silent.as_secs());
    Ok(CpuComparison { here: plane.name().clone(), there: other.clone(), silent_s, differences, vms, unknown })
}

fn not_compared(plane: &ControlPlane, other: &HostName) -> String {
    format!("the processors of {} and {other} are not compared", plane.name())
}

/// Another host, by its name.
fn other_host(plane: &ControlPlane, name: &HostName) -> Result<Known, Diagnosis> {
    let what = not_compared(plane, name);
    let all = discovery::all(plane);
    let names: Vec<&str> = all.iter().map(|known| known.record.name.as_str()).collect();
    let others: Vec<&str> = names.into_iter().filter(|known| *known != plane.name().as_str()).collect();
    if name == plane.name() {
        let hint = others.first().map_or_else(|| "host list".to_owned(), |other| format!("host cpu --compare {other}"));
        return Err(Diagnosis::new(what, format!("{name} is this host"), hint));
    }
    if let Some(known) = all.iter().find(|known| known.record.name == *name) {
        return Ok(known.clone());
    }
    if others.is_empty() {
        if let Some(Reason { cause, hint }) = Blind::look(plane).reason() {
            return Err(Diagnosis::new(what, format!("this host knows of no other, and {cause}"), hint));
        }
        let cause = "this host knows of no other: none shares a datastore with it";
        return Err(Diagnosis::new(what, cause, "datastore list; host check"));
    }
    let cause = format!("no host {name} shares a datastore with this one; known are {}", others.join(", "));
    let meant = nearest(name.as_str(), &others).unwrap_or(others[0]);
    Err(Diagnosis::new(what, cause, format!("host cpu --compare {meant}")))
}

/// The VMs of all datastores by their baselines, and of what nothing is known.
fn vms_by_baseline(plane: &ControlPlane) -> (BTreeMap<Baseline, Vec<VmName>>, Vec<Reason>) {
    let (mut vms, mut unknown) = (BTreeMap::<Baseline, Vec<VmName>>::new(), Vec::new());
    for datastore in plane.datastores.all() {
        // What is no VM's name is shown by `vm list`.
        let names = match vm_names(&datastore) {
            Ok(names) => names,
            Err(reason) => {
                unknown.push(reason);
                continue;
            }
        };
        for name in names {
            match Located::read(&datastore, &name).map(|located| located.draft().cpu_baseline) {
                Ok(Some(baseline)) => vms.entry(baseline).or_default().push(name),
                Err(error) if error.is_missing() => {}
                Ok(None) | Err(_) => {
                    let cause = format!("what VM {name} sees of a processor cannot be read in its vm.toml");
                    unknown.push(Reason::new(cause, format!("vm check {name}")));
                }
            }
        }
    }
    (vms, unknown)
}

/// The best baseline that the hosts seen here share.
///
/// # Errors
/// None of them has told of a processor.
pub fn shared_baseline(plane: &ControlPlane) -> Result<SharedBaseline, Diagnosis> {
    let others = discovery::all(plane).into_iter().filter(|known| known.record.name != *plane.name());
    let shared = shared(plane.name(), plane.cpu.as_ref(), &others.collect::<Vec<_>>());
    shared.ok_or_else(|| {
        let problem = checks::kvm_problem().into_iter().collect();
        Diagnosis::of("there is no baseline that hosts share: none has told of a processor", problem)
    })
}

fn shared(own: &HostName, report: Option<&CpuReport>, others: &[Known]) -> Option<SharedBaseline> {
    let mut counted: Vec<(&HostName, &CpuReport)> = Vec::new();
    let (mut silent, mut without_report) = (Vec::new(), Vec::new());
    match report {
        Some(report) => counted.push((own, report)),
        None => without_report.push(own.clone()),
    }
    for Known { record, state, silent: since, .. } in others {
        match (&record.cpu, state) {
            (None, _) => without_report.push(record.name.clone()),
            (Some(report), HostState::Silent | HostState::Dead | HostState::Off | HostState::Unseen) => {
                silent.push((&record.name, report, since.as_secs()))
            }
            (Some(report), HostState::ThisHost | HostState::Alive) => counted.push((&record.name, report)),
        }
    }
    if counted.is_empty() {
        return None;
    }
    let reports: Vec<&CpuReport> = counted.iter().map(|(_, report)| *report).collect();
    let best = Baseline::best_of(&reports);
    let lacks = |baseline: Baseline| {
        let hosts = counted
            .iter()
            .map(|(host, report)| HostLacks { host: (*host).clone(), features: report.lacking_for(baseline) });
        HigherBaseline { baseline, lacking: hosts.filter(|lacks| !lacks.features.is_empty()).collect() }
    };
    let named = Baseline::ALL.into_iter().filter(|baseline| *baseline != Baseline::Host);
    let higher = named.filter(|baseline| best.is_none_or(|best| *baseline > best)).map(lacks).collect();
    let silent = silent.into_iter().map(|(host, report, silent_s)| {
        let with_it: Vec<&CpuReport> = reports.iter().copied().chain([report]).collect();
        let lacks = best.map(|best| report.lacking_for(best)).unwrap_or_default();
        SilentHost { host: host.clone(), silent_s, best_with_it: Baseline::best_of(&with_it), lacks }
    });
    let silent = silent.collect();
    let mut makers = BTreeMap::<String, Vec<HostName>>::new();
    for (host, report) in &counted {
        makers.entry(report.vendor.clone()).or_default().push((*host).clone());
    }
    let hosts = counted.iter().map(|(host, _)| (*host).clone()).collect();
    let vm_toml = best.map(|best| format!("cpu_baseline = \"{best}\""));
    Some(SharedBaseline { best, vm_toml, hosts, higher, silent, without_report, makers })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use model::cpu_report::CpuidLeaf;

    use super::*;
    use crate::api::host::HostAnswer;
    use crate::api::lease::LeaseAnswer;
    use crate::console::render;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::discovery::{HostRecord, example};

    /// AVX2 and AVX-512F (CPUID leaf 7, ebx bits 5 and 16).
    const AVX2: u32 = 1 << 5;
    const AVX512F: u32 = 1 << 16;

    /// A processor that has everything but these bits of leaf 7, ebx.
    fn without(bits: u32) -> CpuReport {
        let ones = u32::MAX;
        let leaf = |function| CpuidLeaf { function, index: 0, eax: 0, ebx: ones, ecx: ones, edx: ones };
        let mut leaves = [1, 7, 0x8000_0001].map(leaf);
        leaves[1].ebx = !bits;
        let vendor = "AuthenticAMD".to_owned();
        CpuReport {
            brand: "EPYC".to_owned(),
            vendor,
            signature: [25, 1, 1],
            tsc_khz: 2_450_000,
            leaves: leaves.to_vec(),
        }
    }

    fn record(name: &str, cpu: Option<CpuReport>) -> HostRecord {
        HostRecord { cpu, ..example(name, 1) }
    }

    fn known(name: &str, cpu: Option<CpuReport>, state: HostState) -> Known {
        Known { record: record(name, cpu), state, silent: Duration::from_secs(10_800), twins: None }
    }

    #[test]
    fn the_best_baseline_is_that_of_the_hosts_that_live_and_who_holds_it_down_is_named() {
        let own = "host-a".parse().expect("valid");
        let others = [
            known("host-b", Some(without(AVX512F)), HostState::Alive),
            known("host-c", Some(without(AVX2)), HostState::Silent),
            known("host-d", None, HostState::Alive),
            known("host-e", Some(without(0)), HostState::Silent),
        ];
        let shared = |others: &[Known]| shared(&own, Some(&without(0)), others).expect("this host has a processor");
        let all = shared(&others);
        assert_eq!(all.vm_toml.as_deref(), Some("cpu_baseline = \"x86-64-v3\""));
        let told = render::text(&HostAnswer::CpuBaseline(Box::new(all)));
        assert_eq!(
            told,
            "best baseline  x86-64-v3: all hosts seen alive have it, host-a, host-b\n\
             in vm.toml     cpu_baseline = \"x86-64-v3\"\n\
             x86-64-v4      host-b lacks avx512f\n\
             not counted    host-c, silent for 3 h; with it the best is x86-64-v2, for it\n               \
             lacks avx2\n               \
             host-e, silent for 3 h; it has it, too\n               \
             host-d: it has told of no processor (host check there)"
        );
        assert_eq!(shared(&[]).best, Some(Baseline::V4));
        let intel = CpuReport { vendor: "GenuineIntel".to_owned(), ..without(0) };
        let mixed = shared(&[known("host-b", Some(intel), HostState::Alive)]);
        let told = render::text(&HostAnswer::CpuBaseline(Box::new(mixed)));
        assert!(told.contains("GenuineIntel: host-b\n") && told.contains("no VM moves from one maker's"), "{told}");
        assert!(super::shared(&own, None, &others[2..3]).is_none(), "nobody has told of a processor");
    }

    /// A host with a processor and three VMs, which knows of these others.
    fn place(name: &str, others: &[HostRecord]) -> Place {
        let mut place = Place::without_datastore(name, |_| LeaseAnswer::Done);
        let plane = Arc::get_mut(&mut place.plane).expect("nobody else has it");
        plane.cpu = Some(without(0));
        for record in others {
            plane.hosts.note(&"lab".parse().expect("valid"), record.clone(), Instant::now());
        }
        for (vm, baseline) in [("web", "x86-64-v2"), ("db", "x86-64-v3"), ("sum", "host"), ("bad", "z80")] {
            let text = format!("[vm]\nname = \"{vm}\"\ncpus = 1\nmemory = \"64 MiB\"\ncpu_baseline = \"{baseline}\"\n");
            place.write(&format!("vms/{vm}/vm.toml"), &text);
        }
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        place
    }

    #[test]
    fn each_difference_is_told_with_the_vms_that_it_matters_to_and_which_way_they_cannot_move() {
        let place = place("compare", &[record("host-b", Some(CpuReport { tsc_khz: 2_000_000, ..without(AVX2) }))]);
        let compared = compare(&place.plane, &"host-b".parse().expect("valid")).expect("compared");
        let movements: Vec<_> = compared.vms.iter().map(|vms| (vms.baseline, vms.can_go, vms.can_come)).collect();
        assert_eq!(
            movements,
            [(Baseline::Host, false, true), (Baseline::V2, true, true), (Baseline::V3, false, false)]
        );
        let told = render::text(&HostAnswer::CpuComparison(Box::new(compared)));
        assert_eq!(
            told,
            "     host-a       host-b       MATTERS TO\n\
             TSC  2450000 kHz  2000000 kHz  none\n\
             \n\
             LEAF  SUB  REG  BIT  FEATURE  ONLY ON  MATTERS TO\n\
             0x7   0    ebx  5    avx2     host-a   sum db\n\
             \n\
             VMs, host         sum\n\
             host-a to host-b  no: host-b lacks avx2\n\
             host-b to host-a  nothing in the way\n\
             \n\
             VMs, x86-64-v2    web\n\
             host-a to host-b  nothing in the way\n\
             host-b to host-a  nothing in the way\n\
             \n\
             VMs, x86-64-v3    db\n\
             host-a to host-b  no: host-b lacks avx2\n\
             host-b to host-a  no: host-b cannot run them itself (host cpu --baseline)\n\
             \n\
             cause: what VM bad sees of a processor cannot be read in its vm.toml\n\
             hint:  vm check bad"
        );
    }

    #[test]
    fn a_comparison_while_a_datastore_is_lost_does_not_say_that_it_has_no_vm() {
        let place = place("compare-lost", &[record("host-b", Some(without(AVX2)))]);
        let datastore = place.plane.datastores.all().remove(0);
        std::fs::rename(datastore.root(), datastore.root().with_extension("aside")).expect("renamed");
        place.wait("it is lost", || !datastore.available());
        let compared = compare(&place.plane, &"host-b".parse().expect("valid")).expect("compared");
        let told = render::text(&HostAnswer::CpuComparison(Box::new(compared)));
        assert!(!told.contains("no VM is on the datastores") && told.contains("host-a   none known"), "{told}");
        assert!(told.contains("datastore lab does not answer: lost for"), "{told}");
    }

    #[test]
    fn every_line_of_a_comparison_of_quite_other_processors_fits_the_terminal() {
        let (intel, nothing) = ("GenuineIntel".to_owned(), Vec::new());
        let brand = "Intel(R) Xeon(R) Platinum 8592+ Processor of a Very Long Name".to_owned();
        let other = CpuReport { vendor: intel, brand, signature: [6, 207, 2], tsc_khz: 1_900_000, leaves: nothing };
        let place = place("compare-all", &[record("host-b", Some(other))]);
        let compared = compare(&place.plane, &"host-b".parse().expect("valid")).expect("compared");
        assert!(compared.vms.iter().all(|vms| !vms.can_go && !vms.can_come), "another maker's");
        let told = render::text(&HostAnswer::CpuComparison(Box::new(compared)));
        assert!(told.contains("no: the processors are of different makers"), "{told}");
        let long: Vec<&str> = told.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn a_host_that_cannot_be_compared_is_refused_with_those_that_can() {
        let place = place("compare-none", &[record("host-b", None), record("host-c", Some(without(0)))]);
        let refusal =
            |host: &str| compare(&place.plane, &host.parse().expect("valid")).expect_err("refused").to_string();
        assert_eq!(
            refusal("host-x"),
            "error: the processors of host-a and host-x are not compared\n\
             cause: no host host-x shares a datastore with this one; known are host-b, host-c\n\
             hint:  host cpu --compare host-b"
        );
        assert!(
            refusal("host-b")
                .ends_with("host-b has told of no processor: KVM cannot be used there\nhint:  on host-b: host check")
        );
        assert!(refusal("host-a").contains("host-a is this host"), "{}", refusal("host-a"));
        let same = compare(&place.plane, &"host-c".parse().expect("valid")).expect("compared");
        let told = render::text(&HostAnswer::CpuComparison(Box::new(same)));
        assert!(told.starts_with("host-a and host-c show VMs the same processor\n"), "{told}");
    }
}
