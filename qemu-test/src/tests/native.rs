//! Checks of the source tree: what needs no host.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::tests::executables;
use crate::tests::tally::{Tally, Verdict};

/// Runs all of them. The guest kernel comes before the tests that boot it.
pub fn check_source(home: &Home, tally: &mut Tally) {
    let kernel = home.source.join("guest-kernel");
    let kernel_target = home.target.join("guest-kernel");
    let cargo = |folder: &Path, words: &[&str]| cargo(folder, words).env("CARGO_TARGET_DIR", &home.target);
    let in_kernel = |words: &[&str]| cargo(&kernel, words).env("CARGO_TARGET_DIR", &kernel_target);
    tally.check("the code is formatted", || {
        in_sight(cargo(&home.source, &["fmt", "--all", "--check"]))?;
        in_sight(in_kernel(&["fmt", "--check"]))
    });
    let witness = ["build", "--quiet", "--release", "--target", "x86_64-unknown-none"];
    tally.check("the guest kernel builds", || in_sight(in_kernel(&witness)));
    tally.check("clippy finds nothing", || {
        in_sight(cargo(&home.source, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    tally.check("the documentation is whole", || {
        in_sight(
            cargo(&home.source, &["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    // The examples hold no tests, and clippy has seen that they compile.
    let tests = ["test", "--quiet", "--workspace", "--lib", "--bins", "--tests", "--no-run"];
    executables::check(tally, cargo(&home.source, &tests));
    run_tests(tally, "the examples in the documentation", cargo(&home.source, &["test", "--workspace", "--doc"]));
    run_tests(tally, "the tests of the guest kernel", in_kernel(&["test", "--lib"]));
}

fn cargo(folder: &Path, words: &[&str]) -> Child {
    Child::new("cargo", words).in_folder(folder)
}

fn in_sight(child: Child) -> Result<Verdict> {
    if child.succeeds_in_sight()? { Ok(Verdict::Passed) } else { Err(LabError::Input("see above".into())) }
}

/// Runs cargo's test runner, shows what it says, and counts its totals; a run that ends badly without a failed test (it did
/// not compile, a test ended the process) is itself a failure.
fn run_tests(tally: &mut Tally, name: &str, child: Child) {
    println!("check {name} ...");
    let mut of_this_run = Tally::default();
    let ended = watch(child, |line| of_this_run.add_cargo_line(line));
    match ended {
        Ok(true) => {}
        Ok(false) if of_this_run.failed > 0 => of_this_run.failures.push(name.to_owned()),
        Ok(false) => of_this_run.fail(name, &LabError::Input("the run ended before its tests did (see above)".into())),
        Err(error) => of_this_run.fail(name, &error),
    }
    if of_this_run.passed + of_this_run.failed == 0 {
        of_this_run.fail(name, &LabError::Input("no test was run".into()));
    }
    println!("check {name}: {of_this_run}");
    tally.add(&of_this_run);
}

fn watch(child: Child, mut on_line: impl FnMut(&str)) -> Result<bool> {
    let mut child = child.into_command().stdout(Stdio::piped()).spawn().doing("starting cargo")?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.doing("reading what cargo says")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            on_line(&line);
        }
    }
    Ok(child.wait().doing("waiting for cargo")?.success())
}
