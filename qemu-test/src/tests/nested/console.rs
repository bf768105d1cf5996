//! The serial console as a person and as a program use it.

use crate::error::Result;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::tally::Verdict;

pub(super) fn a_command_gives_exactly_its_output_and_its_status(bench: &mut Bench) -> Result<Verdict> {
    let first = bench.done("host-a", "help")?;
    for _ in 0..20 {
        let again = bench.done("host-a", "help")?;
        expect(again == first, || format!("help said once:\n{first}\nand then:\n{again}"))?;
    }
    expect(first.lines().any(|line| line.starts_with("vm migrate")), || format!("help names no vm migrate:\n{first}"))?;
    Ok(Verdict::Passed)
}

pub(super) fn what_is_not_a_command_is_refused_with_a_hint(bench: &mut Bench) -> Result<Verdict> {
    for command in ["vm strat deb", "nonsense", "vm start", "vm start deb extra words"] {
        let answer = bench.exec("host-b", command)?;
        let explained =
            answer.status != 0 && answer.output.starts_with("error: ") && answer.output.contains("\nhint:  ");
        expect(explained, || bench.unexpected("host-b", command, &answer).to_string())?;
    }
    Ok(Verdict::Passed)
}
