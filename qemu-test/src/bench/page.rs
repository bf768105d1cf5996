//! The sections of `appliance/docs/benchmarks.md`.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::bench::case::{Case, Rivals};
use crate::bench::rounds::{Measured, MeasuredMove, Pace, Results, Series};
use crate::bench::statistics::Figures;
use crate::bench::{godwit, qemu, stage, surroundings};
use crate::error::{Doing, Result};
use crate::home::Home;

const HOW_NATIVE: &str = "\
Figures are medians of the repetitions, in brackets the least and the greatest. The contestants take turns; before every \
start and every timed move the guest's size and 100 MiB are touched and freed, so that none waits for memory of this \
machine. The guest is the witness with 1 CPU and memory full of what cannot be compressed; \"pages/s\" are rewritten anywhere \
in 256 MiB. After every move it verifies all its memory, and a damaged page is a failure. Both ends are on this machine, in \
two network namespaces joined by a veth (MTU 1500, offloads on), and share its cores with the guest. The longest stun \
allowed is that of the case, for all. QEMU moves in the clear, or by TLS (gnutls, a key that both know); it may slow its guest \
(auto-converge), and its other end was started before the clock; Godwit encrypts, makes the other end within the move, takes the \
lease over, and audits all memory afterwards. The whole run stands at nice -10.";

const HOW_NESTED: &str = "\
Figures are medians of the repetitions, in brackets the least and the greatest. The contestants take turns, and every other \
time in the opposite order; only one pair of hosts runs at a time, booted anew when its turn comes. All hosts have the same machine, the same \
kernel (Debian's) and the same wires; the moves travel on one of their own (virtio, taps and a bridge, MTU 9000). Godwit's boot its image, \
with an NFS datastore; QEMU's boot an initramfs with Debian's QEMU, and its moves go by the kernel's TCP. The guest is the witness with 1 CPU under \
the hosts' KVM, its memory full of what cannot be compressed; \"pages/s\" are rewritten anywhere in its working set (WORKING_SET) and \
are what is asked for: how many it reaches without a move is *pace*. After every move it verifies all its memory, and a damaged page is a failure. The longest stun \
allowed is that of the case, for all. QEMU moves in the clear, or by TLS (gnutls, a key that both know); it may slow its guest \
(auto-converge), and its other end was started before the clock; Godwit encrypts, makes the other end within the move, takes the \
lease over, and audits all memory afterwards. Times of emulated hosts say nothing of real ones: compare the contestants with each other.";

const COLUMNS: &str = "\
*runs there*: from the order until the guest runs at the other end; *whole*: until the order is done (Godwit: with audit and \
release); *speed*: bytes sent over *runs there*; *stun, told*: as the receipt, or QEMU's account, says; *stun, felt*: the \
longest time between two looks of the guest at its TSC; *clock lost*: how much the guest's clock \
fell behind this machine's, by the quickest of five answers before and after: where its TSC stands still with the guest, that is a stun that it did not feel; *pace*: pages that the guest rewrote in a second without a move; *pace kept*: \
those that it rewrote a second, from the order until it was asked when all was done, in % of that; *gap before*: the longest such time during a \
second without a move, which is the noise of this machine; *own*: processors that the contestant kept busy during the move, \
its guest among it; *others*: those that everybody else, the kernel included, kept busy during the move.";

const START: &str = "
### Start and memory

*start*: from the order (Godwit: `vm start`, typed, with taking the lease; QEMU: its process) to the guest's first instruction. *memory beside*: \
of the machine's process, beside the guest's (Pss), when the guest has filled its memory.

";

const DEPTHS: &str = "
### The depths of verification

Godwit alone, with `verify` in the vm.toml, in turns: *transfer* compares what was sent with what arrived, *audit* (the default: Godwit) all \
memory besides, after the resume, and *full* all memory in the stun. The longest stun allowed is more than *full* takes, and the same for all three. \
*own*: processors that the contestant kept busy during the move, its guest among it, times *whole*. *x*: the median beside that of *transfer*.

";

/// One life in one line, for who watches.
pub(super) fn line(life: &Measured) -> String {
    let mut parts = Vec::new();
    parts.extend(life.start.map(|start| format!("start {:.1} ms", ms(start))));
    parts.extend(life.memory_beside.map(|bytes| format!("{:.1} MiB beside the guest's memory", mib(bytes))));
    if let Some(moved) = &life.moved {
        let (there, sent) = (moved.told.runs_there.as_secs_f64(), mib(moved.told.sent_bytes));
        parts.push(format!(
            "runs there after {there:.2} s, {sent:.0} MiB sent, stun {:.1} ms told",
            ms(moved.told.stun)
        ));
        parts.push(format!("{:.1} ms felt, clock lost {:.1} ms", ms(moved.felt), moved.clock_lost_s * 1e3));
        parts
            .extend(moved.pace.map(|pace| format!("pace {:.0} pages/s, {:.0} % kept", pace.before, pace.kept * 100.0)));
    }
    parts.join(", ")
}

/// The section on moves between processes of this machine.
pub(super) fn native(command: &str, names: &[String], results: &Results, roles_memory: u64) -> Result<String> {
    let mut section = head("## Migration", command, "", HOW_NATIVE)?;
    if has(results, Rivals::Programs) {
        section += "\n";
        section += &moves_table(names, results);
        section += START;
        section += &start_table(names, results);
        section += &format!(
            "\nA host's other roles (control plane, lease, migration) take {:.1} MiB together, once.\n",
            mib(roles_memory)
        );
    }
    if has(results, Rivals::Depths) {
        section += DEPTHS;
        section += &depths_table(names, results);
    }
    section += &failures(results);
    Ok(section)
}

/// The section on moves between nested hosts.
pub(super) fn nested(command: &str, names: &[String], results: &Results) -> Result<String> {
    let hosts = format!(" Hosts: {}.", stage::machine_description());
    let sets: BTreeSet<u32> = results.keys().map(|(case, _)| case.set_mib).collect();
    let sets: Vec<String> = sets.into_iter().map(|mib| format!("{mib} MiB")).collect();
    let how = HOW_NESTED.replace("WORKING_SET", &sets.join(", "));
    let mut section = head("## Migration between nested hosts", command, &hosts, &how)?;
    section += "\n";
    section += &moves_table(names, results);
    section += &failures(results);
    Ok(section)
}

/// What a section begins with: its heading, and how its figures came about.
fn head(heading: &str, command: &str, hosts: &str, how: &str) -> Result<String> {
    let (machine, qemu) = (surroundings::machine_description(), qemu::version()?);
    Ok(format!(
        "{heading}\n\n    {command}\n\nMachine: {machine}.{hosts} Beside it QEMU {qemu}. Godwit: static musl binary, release profile.\n\n\
         {how}\n\n{COLUMNS}\n"
    ))
}

/// A figure of a move.
type Figure = fn(&MeasuredMove) -> f64;

/// The cases between these rivals that were measured, in order.
fn cases(results: &Results, rivals: Rivals) -> BTreeSet<Case> {
    results.keys().map(|(case, _)| *case).filter(|case| case.rivals == rivals).collect()
}

fn has(results: &Results, rivals: Rivals) -> bool {
    !cases(results, rivals).is_empty()
}

/// The depths of a case stand beside the least of them.
fn depths_table(names: &[String], results: &Results) -> String {
    let figures: [(&str, Figure); 5] = [
        ("runs there, s", |moved| moved.told.runs_there.as_secs_f64()),
        ("whole, s", |moved| moved.told.whole.as_secs_f64()),
        ("stun, told, ms", |moved| ms(moved.told.stun)),
        ("stun, felt, ms", |moved| ms(moved.felt)),
        ("own, s", |moved| moved.busy.contestant * moved.told.whole.as_secs_f64()),
    ];
    let heads: String = figures.iter().map(|(head, _)| format!(" {head} | x |")).collect();
    let mut table = format!("| case | | moved |{heads}\n|---|---|---|{}\n", "---|---|".repeat(figures.len()));
    for case in cases(results, Rivals::Depths) {
        let of = |name: &str| results.get(&(case, name.to_owned()));
        let over = |series: &Series, figure: Figure| -> Figures { series.moves().map(figure).collect() };
        let least = of(&godwit::name(godwit::LEAST));
        for (name, series) in names.iter().filter_map(|name| Some((name, of(name)?))) {
            let mut cells = vec![case.title(), name.clone(), series.moved()];
            for (_, figure) in figures {
                let figures = over(series, figure);
                let beside = least.and_then(|least| figures.beside(&over(least, figure)));
                cells.extend([figures.to_string(), beside.map_or("-".into(), |ratio| format!("{ratio:.2}"))]);
            }
            table += &format!("| {} |\n", cells.join(" | "));
        }
    }
    table
}

fn moves_table(names: &[String], results: &Results) -> String {
    let mut table = String::from(
        "| case | | moved | runs there, s | whole, s | sent, MiB | speed, MB/s | stun, told, ms | stun, felt, ms | clock lost, ms | pace, pages/s | pace kept, % | gap before, ms | own | others |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for case in cases(results, Rivals::Programs) {
        let rows = names.iter().filter_map(|name| Some((name, results.get(&(case, name.clone()))?)));
        for (name, series) in rows.filter(|(_, series)| !series.is_start_only()) {
            let over = |figure: Figure| series.moves().map(figure).collect::<Figures>().to_string();
            let of_pace = |figure: fn(Pace) -> f64| {
                series.moves().filter_map(|moved| moved.pace).map(figure).collect::<Figures>().to_string()
            };
            let cells = [
                case.title(),
                name.clone(),
                series.moved(),
                over(|moved| moved.told.runs_there.as_secs_f64()),
                over(|moved| moved.told.whole.as_secs_f64()),
                over(|moved| mib(moved.told.sent_bytes)),
                over(|moved| moved.told.sent_bytes as f64 / 1e6 / moved.told.runs_there.as_secs_f64()),
                over(|moved| ms(moved.told.stun)),
                over(|moved| ms(moved.felt)),
                over(|moved| moved.clock_lost_s * 1e3),
                of_pace(|pace| pace.before),
                of_pace(|pace| pace.kept * 100.0),
                series.lives.iter().map(|life| ms(life.gap_before)).collect::<Figures>().to_string(),
                over(|moved| moved.busy.contestant),
                over(|moved| moved.busy.others),
            ];
            table += &format!("| {} |\n", cells.join(" | "));
        }
    }
    table
}

fn start_table(names: &[String], results: &Results) -> String {
    let mut table = String::from("| memory | | start, ms | memory beside, MiB |\n|---|---|---|---|\n");
    let sizes: BTreeSet<u32> = cases(results, Rivals::Programs).into_iter().map(|case| case.memory_mib).collect();
    for size in sizes {
        for name in names {
            let lives: Vec<&Measured> = results
                .iter()
                .filter(|((case, _), _)| case.rivals == Rivals::Programs && case.memory_mib == size)
                .filter(|((_, contestant), _)| contestant == name)
                .flat_map(|(_, series)| &series.lives)
                .collect();
            if lives.is_empty() {
                continue;
            }
            let start: Figures = lives.iter().filter_map(|life| life.start).map(ms).collect();
            let memory: Figures = lives.iter().filter_map(|life| life.memory_beside).map(mib).collect();
            table += &format!("| {size} MiB | {name} | {start} | {memory} |\n");
        }
    }
    table
}

fn failures(results: &Results) -> String {
    let mut text = String::new();
    for ((case, name), series) in results {
        for failure in &series.failures {
            let failure = failure.split_whitespace().collect::<Vec<_>>().join(" ");
            text += &format!("- {}, {name}: {failure}\n", case.title());
        }
    }
    if text.is_empty() { text } else { format!("\nWhat failed, and is in no figure:\n\n{text}") }
}

impl Series {
    fn moves(&self) -> impl Iterator<Item = &MeasuredMove> {
        self.lives.iter().filter_map(|life| life.moved.as_ref())
    }

    /// How many guests moved, of all.
    fn moved(&self) -> String {
        format!("{} of {}", self.moves().count(), self.lives.len() + self.failures.len())
    }

    /// Whether this contestant's guests are only started.
    fn is_start_only(&self) -> bool {
        !self.lives.is_empty() && self.lives.iter().all(|life| life.moved.is_none())
    }
}

/// Puts the section on the page of this tree, in the place of an older one.
pub fn write(home: &Home, section: &str) -> Result<()> {
    let page = &home.source.join("appliance/docs/benchmarks.md");
    let old = match fs::read_to_string(page) {
        Ok(old) => old,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "# Benchmarks\n".into(),
        Err(error) => return Err(error).at("reading", page),
    };
    fs::write(page, with_section(&old, section)).at("writing", page)
}

fn with_section(page: &str, section: &str) -> String {
    let start = format!("{}\n", section.lines().next().unwrap_or_default());
    let (before, after) = match page.find(&start).filter(|at| *at == 0 || page[..*at].ends_with('\n')) {
        None => (page, ""),
        Some(at) => {
            let rest = &page[at + start.len()..];
            (&page[..at], rest.find("\n## ").map_or("", |end| &rest[end + 1..]))
        }
    };
    let parts = [before.trim_end(), section.trim_end(), after.trim_end()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n") + "\n"
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case;
    use crate::bench::contestant::Moved;
    use crate::bench::surroundings::Shares;

    #[test]
    fn a_new_section_takes_the_place_of_the_old_one_and_leaves_the_others() {
        let page = "# Benchmarks\n\n## Migration\n\nold\n\n### Start\nold\n\n## Migration stack\n\nkept\n";
        let new = with_section(page, "## Migration\n\nnew\n");
        assert_eq!(new, "# Benchmarks\n\n## Migration\n\nnew\n\n## Migration stack\n\nkept\n");
        assert_eq!(with_section(&new, "## Migration\n\nnew\n"), new);
        let both = with_section(&new, "## Migration between nested hosts\n\nnested\n");
        assert_eq!(both, format!("{new}\n## Migration between nested hosts\n\nnested\n"));
        assert_eq!(with_section(&both, "## Migration\n\nnewer\n"), both.replace("new\n", "newer\n"));
    }

    #[test]
    fn the_depths_stand_beside_the_least_of_them_and_in_no_table_of_programs() {
        let depths = *case::native().last().unwrap();
        let [audit, transfer, full] = godwit::DEPTHS.map(godwit::name);
        let life = |ms| {
            let time = Duration::from_millis(ms);
            let told = Moved { runs_there: time, whole: time * 2, sent_bytes: 1 << 20, stun: time };
            let busy = Shares { contestant: 1.5, others: 0.0 };
            Measured {
                moved: Some(MeasuredMove { told, felt: time, clock_lost_s: 0.0, pace: None, busy }),
                ..Measured::default()
            }
        };
        let series = |lives: &[u64]| Series { lives: lives.iter().map(|ms| life(*ms)).collect(), failures: Vec::new() };
        let all = [(&transfer, series(&[100, 110, 90])), (&full, series(&[250])), (&audit, series(&[]))];
        let results: Results = all.into_iter().map(|(name, series)| ((depths, name.clone()), series)).collect();
        let table = depths_table(&[audit.clone(), transfer.clone(), full.clone()], &results);
        let row = |name: &str| table.lines().find(|line| line.contains(&format!("| {name} |"))).unwrap().to_owned();
        assert!(row(&transfer).contains("| 3 of 3 | 0.10 (0.09-0.11) | 1.00 |"), "{table}");
        assert!(
            row(&full).contains("| 250 (250-250) | 2.50 |") && row(&full).contains("| 0.75 (0.75-0.75) | 2.50 |"),
            "{table}"
        );
        assert!(row(&audit).contains("| 0 of 0 | - | - |"), "{table}");
        let columns = |line: &str| line.matches('|').count();
        assert!(table.lines().all(|line| columns(line) == columns(&row(&full))), "{table}");
        assert!(has(&results, Rivals::Depths) && !has(&results, Rivals::Programs));
        assert!(!start_table(std::slice::from_ref(&full), &results).contains(&full));
    }

    #[test]
    fn a_page_without_the_section_gets_it_at_its_end() {
        let page = "# Benchmarks\n\n## Migration stack\n\nkept\n";
        assert_eq!(with_section(page, "## Migration\nx"), format!("{page}\n## Migration\nx\n"));
    }
}
