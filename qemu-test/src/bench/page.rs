//! The section of `appliance/docs/benchmarks.md`.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::bench::case::Case;
use crate::bench::migrate::{Measured, Plan, Results, Series};
use crate::bench::statistics::Figures;
use crate::bench::{qemu, surroundings};
use crate::error::{Doing, Result};
use crate::home::Home;

/// The section's heading.
const HEADING: &str = "## Migration";

const HOW: &str = "\
Figures are medians of the repetitions, in brackets the least and the greatest. The contestants take turns; before every \
start and every timed move the guest's size and 100 MiB are touched and freed, so that none waits for memory of this \
machine. The guest is the witness with 1 CPU and memory full of what cannot be compressed; \"pages/s\" are rewritten anywhere \
in 256 MiB. After every move it verifies all its memory, and a damaged page is a failure. Both ends are on this machine, in \
two network namespaces joined by a veth (MTU 1500, offloads on), and share its cores with the guest. The longest stun \
allowed is that of the case, for all. QEMU moves in the clear, or by TLS (gnutls, a key that both know); it may slow its guest \
(auto-converge), and its other end was started before the clock; Godwit encrypts, makes the other end within the move, takes the \
lease over, and audits all memory afterwards. The whole run stands at nice -10.

*runs there*: from the order until the guest runs at the other end; *whole*: until the order is done (Godwit: with audit and \
release); *speed*: bytes sent over *runs there*; *stun, told*: as the receipt, or QEMU's account, says; *stun, felt*: the \
longest time between two looks of the guest at its TSC; *pace kept*: pages that the guest rewrote a second, from the order \
until it was asked when all was done, in % of those in a second without a move; *gap before*: the longest such time during a \
second without a move, which is the noise of this machine; *own*: processors that the contestant kept busy during the move, \
its guest among it; *others*: those that everybody else, the kernel included, kept busy during the move.";

/// One life in one line, for who watches.
pub(super) fn line(life: &Measured) -> String {
    let start = life.start.map_or("-".into(), |start| format!("{:.1} ms", ms(start)));
    let mut line = format!("start {start}, {:.1} MiB beside the guest's memory", mib(life.memory_beside));
    if let Some(moved) = &life.moved {
        let (there, stun) = (moved.told.runs_there.as_secs_f64(), ms(moved.told.stun));
        line += &format!(", runs there after {there:.2} s, stun {stun:.1} ms told, {:.1} ms felt", ms(moved.felt));
    }
    line
}

/// The whole section.
pub(super) fn section(plan: &Plan, names: &[String], results: &Results, roles_memory: u64) -> Result<String> {
    let choice = plan.choice.words();
    let program = match &plan.program {
        Some(_) => " --program GODWIT",
        None => "",
    };
    let command = format!("cargo lab bench migrate --repetitions {}{choice}{program}", plan.repetitions);
    let machine = surroundings::machine_description();
    let mut section = format!(
        "{HEADING}\n\n    {command}\n\nMachine: {machine}. Beside it QEMU {}. Godwit: static musl binary, release profile.\n\n{HOW}\n\n",
        qemu::version()?
    );
    section += &moves_table(names, results);
    section += "\n### Start and memory\n\n*start*: from the order (Godwit: `vm start`, typed, with taking the lease; QEMU: its process) to \
                the guest's first instruction. *memory beside*: of the machine's process, beside the guest's (Pss), when the \
                guest has filled its memory.\n\n";
    section += &start_table(names, results);
    section += &format!(
        "\nA host's other roles (control plane, lease, migration) take {:.1} MiB together, once.\n",
        mib(roles_memory)
    );
    section += &failures(results);
    Ok(section)
}

/// The cases that were measured, in order.
fn cases(results: &Results) -> BTreeSet<Case> {
    results.keys().map(|(case, _)| *case).collect()
}

fn moves_table(names: &[String], results: &Results) -> String {
    let mut table = String::from(
        "| case | | moved | runs there, s | whole, s | sent, MiB | speed, GB/s | stun, told, ms | stun, felt, ms | pace kept, % | gap before, ms | own | others |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for case in cases(results) {
        let rows = names.iter().filter_map(|name| Some((name, results.get(&(case, name.clone()))?)));
        for (name, series) in rows.filter(|(_, series)| !series.is_start_only()) {
            let moves: Vec<_> = series.lives.iter().filter_map(|life| life.moved.as_ref()).collect();
            let over = |figure: &dyn Fn(&crate::bench::migrate::MeasuredMove) -> f64| {
                moves.iter().map(|moved| figure(moved)).collect::<Figures>().to_string()
            };
            let cells = [
                case.title(),
                name.clone(),
                format!("{} of {}", moves.len(), series.lives.len() + series.failures.len()),
                over(&|moved| moved.told.runs_there.as_secs_f64()),
                over(&|moved| moved.told.whole.as_secs_f64()),
                over(&|moved| mib(moved.told.sent_bytes)),
                over(&|moved| moved.told.sent_bytes as f64 / 1e9 / moved.told.runs_there.as_secs_f64()),
                over(&|moved| ms(moved.told.stun)),
                over(&|moved| ms(moved.felt)),
                moves
                    .iter()
                    .filter_map(|moved| moved.pace_kept)
                    .map(|kept| kept * 100.0)
                    .collect::<Figures>()
                    .to_string(),
                series.lives.iter().map(|life| ms(life.gap_before)).collect::<Figures>().to_string(),
                over(&|moved| moved.busy.contestant),
                over(&|moved| moved.busy.others),
            ];
            table += &format!("| {} |\n", cells.join(" | "));
        }
    }
    table
}

fn start_table(names: &[String], results: &Results) -> String {
    let mut table = String::from("| memory | | start, ms | memory beside, MiB |\n|---|---|---|---|\n");
    let sizes: BTreeSet<u32> = cases(results).into_iter().map(|case| case.memory_mib).collect();
    for size in sizes {
        for name in names {
            let lives: Vec<&Measured> = results
                .iter()
                .filter(|((case, contestant), _)| case.memory_mib == size && contestant == name)
                .flat_map(|(_, series)| &series.lives)
                .collect();
            if lives.is_empty() {
                continue;
            }
            let start: Figures = lives.iter().filter_map(|life| life.start).map(ms).collect();
            let memory: Figures = lives.iter().map(|life| mib(life.memory_beside)).collect();
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
    let start = format!("{HEADING}\n");
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

    #[test]
    fn a_new_section_takes_the_place_of_the_old_one_and_leaves_the_others() {
        let page = "# Benchmarks\n\n## Migration\n\nold\n\n### Start\nold\n\n## Migration stack\n\nkept\n";
        let new = with_section(page, "## Migration\n\nnew\n");
        assert_eq!(new, "# Benchmarks\n\n## Migration\n\nnew\n\n## Migration stack\n\nkept\n");
        assert_eq!(with_section(&new, "## Migration\n\nnew\n"), new);
    }

    #[test]
    fn a_page_without_the_section_gets_it_at_its_end() {
        let page = "# Benchmarks\n\n## Migration stack\n\nkept\n";
        assert_eq!(with_section(page, "## Migration\nx"), format!("{page}\n## Migration\nx\n"));
    }
}
