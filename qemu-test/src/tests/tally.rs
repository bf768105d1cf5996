//! Counts what passed, failed and was skipped.

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use crate::error::{LabError, Result};

/// What one check came to.
#[derive(Debug)]
pub enum Verdict {
    /// It held.
    Passed,
    /// It could not be tried here, and why.
    Skipped(String),
}

/// The sum so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Checks that held.
    pub passed: u32,
    /// Checks that did not.
    pub failed: u32,
    /// Checks that could not be tried here.
    pub skipped: u32,
    /// Those that failed: the name, and what is known of the reason.
    pub failures: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Tally {
    /// Runs one check, prints its outcome and time, counts it; whether it did not fail.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<Verdict>) -> bool {
        println!("check {name} ...");
        let start = Instant::now();
        let verdict = check();
        let took = start.elapsed().as_secs_f64();
        let held = verdict.is_ok();
        match verdict {
            Ok(Verdict::Passed) => {
                self.passed += 1;
                println!("check {name} ... ok ({took:.1} s)");
            }
            Ok(Verdict::Skipped(why)) => {
                self.skipped += 1;
                println!("check {name} ... skipped: {why}");
            }
            Err(error) => {
                println!("check {name} ... FAILED ({took:.1} s)");
                self.fail(name, &error);
            }
        }
        held
    }

    /// Prints what failed and, last, the totals; gives the status that a process ends with.
    pub fn conclude(&self) -> ExitCode {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{self}");
        if self.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// Counts a failure and prints it.
    pub fn fail(&mut self, name: &str, error: &LabError) {
        self.failed += 1;
        // The first line alone: the rest, which may be a whole log, stands where it happened.
        let reason = error.to_string();
        self.failures.push(format!("{name}: {}", reason.lines().next().unwrap_or_default()));
        println!("error: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            println!("cause: {error}");
            cause = error.source();
        }
    }

    /// Counts a line of cargo's test runner if it is a total:
    /// `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
    pub fn add_cargo_line(&mut self, line: &str) {
        let Some(totals) = line.trim_start().strip_prefix("test result: ") else { return };
        let totals = totals.split_once(". ").map_or(totals, |(_, totals)| totals);
        for part in totals.split("; ") {
            let Some((count, what)) = part.split_once(' ') else { continue };
            let Ok(count) = count.parse::<u32>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_totals_are_summed_over_its_runs() {
        let mut tally = Tally::default();
        tally.add_cargo_line(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s",
        );
        tally.add_cargo_line(
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        tally.add_cargo_line("running 7 tests");
        tally.add_cargo_line("test x::test_result ... ok");
        assert_eq!(tally.to_string(), "14 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn a_check_that_fails_is_counted_and_named_with_its_reason() {
        let mut tally = Tally::default();
        tally.check("good", || Ok(Verdict::Passed));
        tally.check("absent", || Ok(Verdict::Skipped("no KVM".into())));
        tally.check("bad", || Err(LabError::Input("broken\nits log".into())));
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(tally.failures, ["bad: broken"]);
    }
}
