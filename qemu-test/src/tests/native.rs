//! Checks of the source tree: what needs no host.

use std::path::Path;

use crate::child::Child;
use crate::error::{LabError, Result};
use crate::home::Home;
use crate::tests::executables::{self, Executable};
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
        in_sight(cargo(&home.source, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
        // What all targets leave out, because it is run apart (`older`).
        let apart = ["clippy", "--quiet", "--package", "godwit", "--test", "older_build", "--", "-D", "warnings"];
        in_sight(cargo(&home.source, &apart))
    });
    tally.check("the documentation is whole", || {
        in_sight(
            cargo(&home.source, &["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    // The examples hold no tests, and clippy has seen that they compile.
    let tests = ["test", "--quiet", "--workspace", "--lib", "--bins", "--tests", "--no-run"];
    let others = vec![
        Executable::of_command(
            "the examples in the documentation",
            cargo(&home.source, &["test", "--workspace", "--doc"]),
        ),
        Executable::of_command("the tests of the guest kernel", in_kernel(&["test", "--lib"])),
    ];
    executables::check(tally, cargo(&home.source, &tests), others);
}

fn cargo(folder: &Path, words: &[&str]) -> Child {
    Child::new("cargo", words).in_folder(folder)
}

fn in_sight(child: Child) -> Result<Verdict> {
    if child.succeeds_in_sight()? { Ok(Verdict::Passed) } else { Err(LabError::Input("see above".into())) }
}
