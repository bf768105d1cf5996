//! The workspace's test executables: built by cargo, and run here, several at a time. Those that mostly wait (for an expiry, for another process)
//! run beside those that keep the processors busy: one after another they would leave the machine idle for minutes.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::tests::tally::Tally;

/// How many run at once of those that keep the processors busy.
const BUSY_AT_ONCE: usize = 2;
/// The same of those that wait, and of the tests of each.
const WAITING_AT_ONCE: usize = 3;
const WAITING_TESTS_AT_ONCE: usize = 4;

/// Those that wait, the longest first.
const WAITING: [&str; 9] = [
    "godwit (test host)",
    "godwit (test discovery)",
    "godwit (test damaged_lease)",
    "godwit (test clone)",
    "godwit (test console)",
    "godwit (test dying_roles)",
    "godwit (test migration_nic)",
    "godwit (test lease)",
    "godwit (lib godwit)",
];
/// How the names of the others begin that take longest, the longest first: so that none is alone at the end.
const LONGEST: [&str; 6] = [
    "godwit (test migrate)",
    "godwit (test no_convergence)",
    "vmm (test ",
    "godwit (test seeded_moves)",
    "sim (test migration)",
    "godwit ",
];

/// One test executable, or a command that builds and runs tests itself.
pub(super) struct Executable {
    /// Package and target, for people.
    name: String,
    child: Child,
}

impl Executable {
    /// Tests that a command runs.
    pub(super) fn of_command(name: &str, child: Child) -> Self {
        Self { name: name.to_owned(), child }
    }

    fn waits(&self) -> bool {
        WAITING.contains(&self.name.as_str())
    }
}

/// Builds the tests, runs them all and `others` beside them, and counts them. `cargo` is a cargo that builds the workspace's tests without running
/// them, but for its message format.
pub(super) fn check(tally: &mut Tally, cargo: Child, others: Vec<Executable>) {
    println!("check the tests build ...");
    let executables = match build(cargo) {
        Ok(executables) if executables.is_empty() => {
            return tally.fail("the tests build", &LabError::Input("there are none".into()));
        }
        Ok(executables) => executables,
        Err(error) => return tally.fail("the tests build", &error),
    };
    println!("check the tests build ... ok ({} executables)", executables.len());
    let (waiting, busy): (Vec<_>, Vec<_>) = executables.into_iter().chain(others).partition(Executable::waits);
    let (waiting, busy) = (in_order(waiting, &WAITING), in_order(busy, &LONGEST));
    let (told, done) = channel();
    // What waits is through first: then there is room for one more of the others.
    let lanes =
        [vec![vec![&waiting]; WAITING_AT_ONCE - 1], vec![vec![&waiting, &busy]], vec![vec![&busy]; BUSY_AT_ONCE]];
    std::thread::scope(|scope| {
        for queues in lanes.concat() {
            let told = told.clone();
            scope.spawn(move || {
                let next = |queue: &Queue| queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(executable) = queues.iter().find_map(|queue| next(queue)) {
                    run(executable, &told);
                }
            });
        }
        drop(told);
        for (executable, said, outcome) in done {
            let (said, skips) = apart(&said);
            print!("     Running {executable}\n{said}");
            skips.iter().for_each(|(test, why)| println!("test {test} ... skipped: {why}"));
            tally.add(&judged(&executable, &said, skips.len(), outcome));
        }
    });
}

fn build(cargo: Child) -> Result<Vec<Executable>> {
    let mut child = cargo.into_command();
    let child = child.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = child.spawn().doing("starting cargo")?;
    let mut executables = Vec::new();
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.doing("reading what cargo says")?;
        executables.extend(serde_json::from_str(&line).ok().and_then(|said| executable(&said)));
    }
    if !child.wait().doing("waiting for cargo")?.success() {
        return Err(LabError::Input("they do not build (see above)".into()));
    }
    Ok(executables)
}

type Queue = Mutex<std::vec::IntoIter<Executable>>;

/// Those whose names begin with the first of `names` come first, and so on.
fn in_order(mut executables: Vec<Executable>, names: &[&str]) -> Queue {
    let place = |executable: &Executable| names.iter().position(|name| executable.name.starts_with(name));
    executables.sort_by_key(|executable| place(executable).unwrap_or(names.len()));
    Mutex::new(executables.into_iter())
}

/// A test executable of which cargo tells (The Cargo Book, "External tools", "Artifact messages").
fn executable(said: &Value) -> Option<Executable> {
    if said.get("reason")? != "compiler-artifact" || said.get("profile")?.get("test")? != true {
        return None;
    }
    let path = PathBuf::from(said.get("executable")?.as_str()?);
    let folder = Path::new(said.get("manifest_path")?.as_str()?).parent()?.to_owned();
    let target = said.get("target")?;
    let (kind, name) = (target.get("kind")?.get(0)?.as_str()?, target.get("name")?.as_str()?);
    let package = said.get("package_id")?.as_str()?.rsplit_once('/').map_or("", |(_, last)| last);
    // `path+file:///place/name#0.1.0`, or `.../folder#name@0.1.0` where the folder has another name.
    let (place, version) = package.split_once('#').unwrap_or((package, ""));
    let package = version.split_once('@').map_or(place, |(name, _)| name);
    let name = format!("{package} ({kind} {name})");
    let words = WAITING.contains(&name.as_str()).then(|| format!("--test-threads={WAITING_TESTS_AT_ONCE}"));
    Some(Executable { name, child: Child::new(path, ["--show-output"]).args(words).in_folder(&folder) })
}

type Ended = (String, String, Result<bool>);

fn run(executable: Executable, told: &Sender<Ended>) {
    let Executable { name, child } = executable;
    let (said, outcome) = match whole_output(child) {
        Ok((said, succeeded)) => (said, Ok(succeeded)),
        Err(error) => (String::new(), Err(error)),
    };
    // The other end waits for all.
    let _ = told.send((name, said, outcome));
}

/// What it prints on both its outputs, in order, and whether it succeeded.
fn whole_output(child: Child) -> Result<(String, bool)> {
    let (mut said, both) = std::io::pipe().doing("making a pipe")?;
    let mut command = child.into_command();
    command.stderr(both.try_clone().doing("making a pipe")?).stdout(both);
    let mut child = command.spawn().doing("starting tests")?;
    // It holds the writing ends: the output would not end with the child's.
    drop(command);
    let mut text = Vec::new();
    said.read_to_end(&mut text).doing("reading what tests say")?;
    let status = child.wait().doing("waiting for tests")?;
    Ok((String::from_utf8_lossy(&text).into_owned(), status.success()))
}

/// Takes the output of tests that passed out of what an executable said; and gives those of them that could not be tried here, and said so:
/// the test runner knows no word for a test that finds that out by itself.
fn apart(said: &str) -> (String, Vec<(String, String)>) {
    let (mut rest, mut skips, mut of) = (String::new(), Vec::new(), None);
    for line in said.lines() {
        match line {
            "successes:" => of = Some(""),
            "failures:" => of = None,
            _ if line.starts_with("test result: ") => of = None,
            _ => {}
        }
        match (of.as_mut(), line.strip_prefix("---- "), line.strip_prefix("skipped: ")) {
            (None, ..) => rest.extend([line, "\n"]),
            (Some(of), Some(begun), _) => *of = begun.trim_end_matches(" stdout ----"),
            (Some(of), None, Some(why)) => skips.push(((*of).to_owned(), why.to_owned())),
            (Some(_), None, None) => {}
        }
    }
    skips.dedup_by(|one, other| one.0 == other.0);
    (rest, skips)
}

/// A run that ends badly without a failed test (a test ended the process) is itself a failure. A test that another starts in a process of its own
/// is none that was skipped.
fn judged(name: &str, said: &str, skips: usize, outcome: Result<bool>) -> Tally {
    let mut tally = Tally::default();
    said.lines().for_each(|line| tally.add_cargo_line(line));
    let skips = u32::try_from(skips).unwrap_or(u32::MAX);
    tally.passed = tally.passed.saturating_sub(skips);
    let elsewhere = said.lines().filter(|line| line.contains(" ... ignored, started by the test above")).count();
    tally.skipped = (tally.skipped + skips).saturating_sub(u32::try_from(elsewhere).unwrap_or(u32::MAX));
    match outcome {
        Ok(true) if !said.contains("test result: ") => tally.fail(name, &LabError::Input("no test was run".into())),
        Ok(true) => {}
        Ok(false) if tally.failed > 0 => {
            let failed = said.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
            tally.failures.push(format!("{name}: {}", failed.collect::<Vec<_>>().join(", ")));
        }
        Ok(false) => tally.fail(name, &LabError::Input("it ended before its tests did (see above)".into())),
        Err(error) => tally.fail(name, &error),
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_word_of_a_test_executable_is_understood_and_its_other_words_are_not_taken_for_one() {
        let said = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/appliance#godwit@0.1.0","manifest_path":"/w/appliance/Cargo.toml",
            "target":{"kind":["test"],"name":"migrate"},"profile":{"test":true},"executable":"/t/migrate-1"}"#;
        let mut said: Value = serde_json::from_str(said).expect("JSON");
        let found = executable(&said).expect("one");
        assert_eq!(found.name, "godwit (test migrate)");
        said["package_id"] = "path+file:///w/appliance/vmm#0.1.0".into();
        assert_eq!(executable(&said).expect("one").name, "vmm (test migrate)");
        said["executable"] = Value::Null;
        assert!(executable(&said).is_none());
        said["executable"] = "/t/godwit".into();
        said["profile"]["test"] = false.into();
        assert!(executable(&said).is_none());
    }

    #[test]
    fn a_test_that_could_not_be_tried_is_skipped_with_its_reason_and_what_others_printed_is_passed_over() {
        let said = "running 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... ignored, started by the test above, in a process of its own\n\n\
                    successes:\n\n---- a stdout ----\nskipped: no root\n\n---- b stdout ----\nmuch\n\n\n\
                    successes:\n    a\n    b\n\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured";
        let (rest, skips) = apart(said);
        assert_eq!(skips, [("a".to_owned(), "no root".to_owned())]);
        assert!(!rest.contains("much") && rest.contains("test b ... ok"), "{rest}");
        assert_eq!(judged("x", &rest, 1, Ok(true)).to_string(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_process_that_ends_before_its_tests_is_a_failure_and_so_is_one_that_is_not_there() {
        assert_eq!(
            judged("x", "test result: ok. 2 passed; 0 failed", 0, Ok(true)).to_string(),
            "2 passed, 0 failed, 0 skipped"
        );
        assert_eq!(judged("x", "running 2 tests", 0, Ok(false)).to_string(), "0 passed, 1 failed, 0 skipped");
        let said = "test a ... FAILED\ntest b ... ok\ntest result: FAILED. 1 passed; 1 failed";
        assert_eq!(judged("x", said, 0, Ok(false)).failures, ["x: a"]);
        assert_eq!(judged("x", "nothing to do", 0, Ok(true)).failed, 1, "no test was run");
        whole_output(Child::new("/nowhere", [""])).expect_err("it is not there");
    }
}
