//! What hosts' processors can show a VM: of one, of two against each other, of all.

use model::cpu_report::comparison::{Comparison, FeatureDifference, RegisterDifference, Side};
use model::cpu_report::{Baseline, CpuReport, FeatureBit};

use super::answers::{problems, span};
use super::record::Record;
use super::table::{Table, WIDTH};
use crate::api::cpu::{CpuComparison, HigherBaseline, SharedBaseline, SilentHost, VmsOfBaseline};

pub(super) fn report(report: &CpuReport) -> String {
    let mut table = Table::new(["LEAF", "SUB", "EAX", "EBX", "ECX", "EDX"], "KVM tells nothing");
    for leaf in &report.leaves {
        let registers = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(|value| format!("{value:08x}"));
        let [eax, ebx, ecx, edx] = registers;
        table.row([format!("{:#x}", leaf.function), leaf.index.to_string(), eax, ebx, ecx, edx]);
    }
    let [family, model, stepping] = report.signature;
    format!(
        "{}\n{}, family {family}, model {model}, stepping {stepping}; TSC {} kHz\n\n{table}",
        report.brand, report.vendor, report.tsc_khz
    )
}

pub(super) fn comparison(compared: &CpuComparison) -> String {
    let CpuComparison { here, there, silent_s, differences, vms, unknown } = compared;
    let mut parts = Vec::new();
    if let Some(seconds) = silent_s {
        parts.push(format!("{there} has said nothing for {}: this is what it said before", span(*seconds)));
    }
    if differences.is_empty() {
        parts.push(format!("{here} and {there} show VMs the same processor"));
    }
    let names = [here.as_str(), there.as_str()];
    parts.extend([
        identity(differences, names),
        features(differences, vms, unknown.is_empty(), names),
        registers(differences, names),
    ]);
    parts.extend(vms.iter().map(|vms| movements(differences, vms, names)));
    if vms.is_empty() && unknown.is_empty() {
        parts.push("no VM is on the datastores of this host: no difference matters to one".to_owned());
    }
    parts.push(problems(unknown).trim_start().to_owned());
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn identity(differences: &Comparison, [here, there]: [&str; 2]) -> String {
    let mut table = Table::new(["", here, there, "MATTERS TO"], "");
    for difference in &differences.identity {
        let matters = if difference.matters { "all VMs" } else { "none" };
        let (what, here, there) = (difference.what.clone(), difference.here.clone(), difference.there.clone());
        table.row([what, here, there, matters.to_owned()]);
    }
    table.to_string()
}

/// The features that only one has; `all_known` says whether `vms` are all that there are.
fn features(differences: &Comparison, vms: &[VmsOfBaseline], all_known: bool, [here, there]: [&str; 2]) -> String {
    let nobody = if all_known { "none" } else { "none known" };
    let mut table = Table::new(["LEAF", "SUB", "REG", "BIT", "FEATURE", "ONLY ON", "MATTERS TO"], "");
    for FeatureDifference { feature, only, matters_to } in &differences.features {
        let concerned = vms.iter().filter(|vms| matters_to.contains(&vms.baseline)).flat_map(|vms| &vms.vms);
        let concerned: Vec<&str> = concerned.map(|vm| vm.as_str()).collect();
        let FeatureBit { function, index, register, bit, name } = feature;
        table.row([
            format!("{function:#x}"),
            index.to_string(),
            register.to_string(),
            bit.to_string(),
            name.clone().unwrap_or_else(|| "(unnamed)".to_owned()),
            if *only == Side::Here { here } else { there }.to_owned(),
            if concerned.is_empty() { nobody.to_owned() } else { concerned.join(" ") },
        ]);
    }
    table.to_string()
}

fn registers(differences: &Comparison, [here, there]: [&str; 2]) -> String {
    let value = |value: &Option<u32>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:08x}"));
    let mut table = Table::new(["LEAF", "SUB", "REG", here, there, "IT TELLS (MATTERS TO NONE)"], "");
    for RegisterDifference { function, index, register, about, here, there } in &differences.registers {
        let (leaf, sub) = (format!("{function:#x}"), index.to_string());
        table.row([leaf, sub, register.to_string(), value(here), value(there), about.clone()]);
    }
    table.to_string()
}

/// Whether the VMs of one baseline can move between two hosts, and for what they cannot.
fn movements(differences: &Comparison, vms: &VmsOfBaseline, [here, there]: [&str; 2]) -> String {
    let VmsOfBaseline { baseline, vms, runs_here, runs_there, can_go, can_come } = vms;
    let way = |can: &bool, from: Side, to: &str| {
        let (at_home, home) = if from == Side::Here { (runs_here, here) } else { (runs_there, there) };
        if !at_home {
            return format!("no: {home} cannot run them itself (host cpu --baseline)");
        }
        let lacks = differences.in_the_way(*baseline, from);
        match (can, differences.parts_all()) {
            (true, _) => "nothing in the way".to_owned(),
            (false, true) => "no: the processors are of different makers".to_owned(),
            (false, false) => format!("no: {to} lacks {}", listed(lacks)),
        }
    };
    let (go, come) = (format!("{here} to {there}"), format!("{there} to {here}"));
    let room = WIDTH - 2 - go.len().max(come.len()).max(of(*baseline).len());
    let names: Vec<&str> = vms.iter().map(|vm| vm.as_str()).collect();
    Record::default()
        .each(&of(*baseline), wrapped(&names.join(", "), room))
        .each(&go, wrapped(&way(can_go, Side::Here, there), room))
        .each(&come, wrapped(&way(can_come, Side::There, here), room))
        .to_string()
}

fn of(baseline: Baseline) -> String {
    format!("VMs, {baseline}")
}

/// Names of features; the unnamed by their place.
fn listed<'a>(features: impl IntoIterator<Item = &'a FeatureBit>) -> String {
    let name = |feature: &FeatureBit| feature.name.clone().unwrap_or_else(|| feature.to_string());
    features.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The text in lines of at most so many characters, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

pub(super) fn shared(shared: &SharedBaseline) -> String {
    const NAMES: usize = "best baseline".len();
    let lines = |text: String| wrapped(&text, WIDTH - 2 - NAMES);
    let SharedBaseline { best, vm_toml, hosts, higher, silent, without_report, makers } = shared;
    let names: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
    let best_line = match best {
        Some(best) => format!("{best}: all hosts seen alive have it, {}", names.join(", ")),
        None => format!("none: not all of {} have so much as x86-64-v1", names.join(", ")),
    };
    let mut record = Record::default().each("best baseline", lines(best_line)).some("in vm.toml", vm_toml.as_ref());
    for HigherBaseline { baseline, lacking } in higher {
        let lacks = lacking.iter().flat_map(|lacks| lines(format!("{} lacks {}", lacks.host, listed(&lacks.features))));
        record = record.each(&baseline.to_string(), lacks);
    }
    let silent = silent.iter().map(|SilentHost { host, silent_s, best_with_it, lacks }| {
        let for_how_long = span(*silent_s);
        match best_with_it {
            with_it if with_it == best => format!("{host}, silent for {for_how_long}; it has it, too"),
            Some(lower) => format!(
                "{host}, silent for {for_how_long}; with it the best is {lower}, for it lacks {}",
                listed(lacks)
            ),
            None => format!("{host}, silent for {for_how_long}; with it there is none, for it lacks {}", listed(lacks)),
        }
    });
    let without = without_report.iter().map(|host| format!("{host}: it has told of no processor (host check there)"));
    record = record.each("not counted", silent.chain(without).flat_map(lines));
    if makers.len() > 1 {
        let makers = makers.iter().map(|(maker, hosts)| {
            let hosts: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
            format!("{maker}: {}", hosts.join(", "))
        });
        let note = "no VM moves from one maker's processors to another's, whatever its baseline".to_owned();
        record = record.each("makers", makers.chain([note]).flat_map(lines));
    }
    record.to_string()
}
