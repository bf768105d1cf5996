//! Waits until the hosts of a fleet can start VMs: their datastores are there and they hold their leases on them. A host that cannot is
//! told of as soon as it says why, and no reason to stop: what it says on its console is what the person needs.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::console::SerialLine;
use crate::error::Result;
use crate::machine::Machine;

/// From consoles that answer to the datastore's VMs in their lists, all hosts together.
const BOUND: Duration = Duration::from_secs(90);
/// What stands in a host's way for so long is told: it is more than the boot of a server, a network or a lease.
const TELL: Duration = Duration::from_secs(5);
/// What a datastore itself is refused for, unchanged for so long, is not waited for any more.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long `host check` may take.
const CHECK_BOUND: Duration = Duration::from_secs(30);

/// Waits for all of them at once.
pub fn wait_for_datastores(machines: &[Machine]) {
    let began = Instant::now();
    let mut waiting: Vec<(&Machine, Waiting)> = machines.iter().map(|machine| (machine, Waiting::default())).collect();
    while !waiting.is_empty() && began.elapsed() < BOUND {
        waiting.retain_mut(|(machine, waiting)| {
            let host = &machine.spec.name;
            match look(machine).map(|missing| waiting.hear(missing, Instant::now())) {
                Ok(Next::Ready) => false,
                Ok(Next::Wait) => true,
                Ok(Next::Tell(why)) => {
                    println!("lab: {host} waits: {why}");
                    true
                }
                Ok(Next::GiveUp(why)) => {
                    println!("lab: {host} is not ready, and goes on trying by itself: {why}");
                    false
                }
                Err(error) => {
                    println!("lab: {host} is not ready: {error}");
                    false
                }
            }
        });
        std::thread::sleep(LOOK);
    }
    for (machine, waiting) in waiting {
        let (host, why) = (&machine.spec.name, waiting.last.map(|(missing, ..)| missing.why).unwrap_or_default());
        println!("lab: {host} is not ready after {} s, and goes on trying by itself: {why}", BOUND.as_secs());
    }
}

fn look(machine: &Machine) -> Result<Option<Missing>> {
    let answer = SerialLine::open(machine)?.exec_within("host check --json", CHECK_BOUND)?;
    Ok(missing_of(&answer.output))
}

/// What stands in a host's way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    /// For a person: what is not well, its causes, and what mends them.
    why: String,
    of: Of,
}

/// What it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The configuration: nothing comes of waiting.
    Configuration,
    /// The datastore, which says why.
    Datastore,
    /// Something that a boot takes: a datastore that was not tried yet, a lease.
    Boot,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Ready,
    Wait,
    Tell(String),
    GiveUp(String),
}

/// What a host said last, since when, and whether that was told.
#[derive(Debug, Default)]
struct Waiting {
    last: Option<(Missing, Instant, bool)>,
}

impl Waiting {
    fn hear(&mut self, missing: Option<Missing>, now: Instant) -> Next {
        let Some(missing) = missing else { return Next::Ready };
        if missing.of == Of::Configuration {
            return Next::GiveUp(missing.why);
        }
        let (known, since, told) = match &mut self.last {
            Some(last) if last.0 == missing => last,
            last => last.insert((missing, now, false)),
        };
        let stands = now.saturating_duration_since(*since);
        if known.of == Of::Datastore && stands >= GIVE_UP {
            return Next::GiveUp(known.why.clone());
        }
        if *told || stands < TELL {
            return Next::Wait;
        }
        *told = true;
        Next::Tell(known.why.clone())
    }
}

/// What a host's check says of its configuration, its datastore of the lab and its lease there that is not as it should be, or why it
/// does not answer; none if all is well, or no datastore is configured. A test may give a host further datastores of no use.
fn missing_of(checks: &str) -> Option<Missing> {
    let Ok(Value::Array(checks)) = serde_json::from_str(checks) else {
        return Some(Missing { why: checks.trim_end().to_owned(), of: Of::Boot });
    };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut lines, mut of) = (Vec::new(), Of::Boot);
    for check in &checks {
        let (subject, found) = (text(check, "subject"), text(check, "found"));
        let problems = check.get("problems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let of_the_lab = || problems.iter().any(|problem| problem.to_string().contains("datastore lab "));
        let is_datastore = subject == "datastore lab";
        let well = match subject.as_str() {
            "configuration" => found != "not well",
            "leases" => found != "not well" || !of_the_lab(),
            _ if is_datastore => found == "available",
            _ => true,
        };
        if well {
            continue;
        }
        if subject == "configuration" {
            of = Of::Configuration;
        } else if is_datastore && !problems.is_empty() && of == Of::Boot {
            of = Of::Datastore;
        }
        let reasons =
            problems.iter().map(|problem| format!("\n  {}\n  hint: {}", text(problem, "cause"), text(problem, "hint")));
        lines.push(format!("{subject}: {found}{}", reasons.collect::<String>()));
    }
    (!lines.is_empty()).then(|| Missing { why: lines.join("\n"), of })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A subject, what was found, and a cause with its hint.
    type Check = (&'static str, &'static str, Option<(&'static str, &'static str)>);

    /// As `host check --json` answers.
    fn checks(checks: &[Check]) -> String {
        let checks = checks.iter().map(|(subject, found, problem)| {
            let problems: Vec<Value> =
                problem.iter().map(|(cause, hint)| serde_json::json!({ "cause": cause, "hint": hint })).collect();
            serde_json::json!({ "subject": subject, "found": found, "problems": problems, "warnings": [] })
        });
        Value::Array(checks.collect()).to_string()
    }

    const NO_EXPORT: (&str, &str) = ("10.99.0.1 has no export /wrong", "correct datastore.NAME.export");
    const NO_LEASE: (&str, &str) = ("the host lease on datastore lab cannot be taken", "datastore show lab");

    #[test]
    fn a_host_with_a_wrong_export_is_told_of_with_cause_and_mend_and_not_waited_for_to_the_end() {
        let wrong = checks(&[
            ("configuration", "read without errors", None),
            ("datastore lab", "not well", Some(NO_EXPORT)),
            ("leases", "not well", Some(NO_LEASE)),
            ("KVM", "not well", Some(("no KVM", "another machine"))),
        ]);
        let (mut waiting, began) = (Waiting::default(), Instant::now());
        let hear = |waiting: &mut Waiting, after| waiting.hear(missing_of(&wrong), began + after);
        assert_eq!(hear(&mut waiting, Duration::ZERO), Next::Wait, "it may come yet");
        let Next::Tell(why) = hear(&mut waiting, TELL) else { panic!("it is not told") };
        for told in [NO_EXPORT.0, NO_EXPORT.1, "leases: not well"] {
            assert!(why.contains(told) && !why.contains("KVM"), "{told}: {why}");
        }
        assert_eq!(hear(&mut waiting, TELL * 2), Next::Wait, "once is enough");
        assert_eq!(hear(&mut waiting, GIVE_UP), Next::GiveUp(why));
    }

    #[test]
    fn what_a_boot_takes_is_waited_for_to_the_end() {
        let boot = checks(&[
            ("datastore lab", "available", None),
            ("leases", "not well", Some(NO_LEASE)),
            ("datastore other", "not well", Some(NO_EXPORT)),
        ]);
        let (mut waiting, began) = (Waiting::default(), Instant::now());
        assert_eq!(waiting.hear(missing_of(&boot), began), Next::Wait);
        assert!(matches!(waiting.hear(missing_of(&boot), began + TELL), Next::Tell(_)));
        assert_eq!(waiting.hear(missing_of(&boot), began + GIVE_UP), Next::Wait);
        assert_eq!(waiting.hear(missing_of("no answer"), began + GIVE_UP), Next::Wait, "it is another one");
        let well = checks(&[("datastore lab", "available", None), ("leases", "renewed", None)]);
        assert_eq!(waiting.hear(missing_of(&well), began + GIVE_UP), Next::Ready);
    }

    #[test]
    fn a_host_with_a_bad_configuration_is_not_waited_for() {
        let bad = checks(&[("configuration", "not well", Some(("host.toml: line 3", "mend it")))]);
        let next = Waiting::default().hear(missing_of(&bad), Instant::now());
        assert!(matches!(&next, Next::GiveUp(why) if why.contains("line 3")), "{next:?}");
    }
}
