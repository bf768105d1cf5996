//! What may come next on a line: words of commands, live names, flags.

use std::path::PathBuf;
use std::time::Duration;

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::api::channel::Channel;
use crate::api::host::{HostAnswer, HostRequest, Names};
use crate::console::command::{Argument, COMMANDS, Command};

/// How long a pressed Tab waits for live names.
const NAMES_BOUND: Duration = Duration::from_millis(500);

const ROLES: [&str; 5] = ["init", "host", "lease", "migrate", "vmm"];

/// Completes lines with names that it asks of the control plane at each Tab.
pub struct Completion {
    socket: PathBuf,
}

impl Completion {
    /// Asks for names at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Live names; none while the control plane does not answer, for a Tab must not hold the line up.
    fn names(&self) -> Names {
        let channel = Channel::<HostRequest, HostAnswer>::connect_within(&self.socket, NAMES_BOUND);
        match channel.map(|channel| channel.ask(&HostRequest::Names, &[], NAMES_BOUND)) {
            Ok(Ok((HostAnswer::Names(names), _))) => names,
            _ => Names::default(),
        }
    }
}

/// What may stand in the place of the last, perhaps empty, word of `line`.
fn candidates(line: &str, names: impl FnOnce() -> Names) -> Vec<String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let last = if line.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or("") };
    let mut found = Vec::new();
    let mut wanted = None;
    for command in COMMANDS {
        let fits = words.iter().zip(command.words).all(|(typed, word)| typed == word);
        if !fits {
            continue;
        }
        match command.words.get(words.len()) {
            Some(word) => found.push((*word).to_owned()),
            None => wanted = Some(command),
        }
    }
    if words.is_empty() {
        found.push("help".to_owned());
    }
    if let Some(command) = wanted {
        match words.last().and_then(|word| command.value_of(word)) {
            Some("HOST") => found.extend(names().hosts.iter().map(ToString::to_string)),
            // A choice: `wait|force|abort`.
            Some(kind) if kind.contains('|') => found.extend(kind.split('|').map(str::to_owned)),
            Some(_) => {}
            None => found.extend(following(command, words.len() - command.words.len(), last, names)),
        }
    }
    found.retain(|candidate| candidate.starts_with(last));
    found.sort();
    found.dedup();
    found
}

fn following(command: &Command, given: usize, last: &str, names: impl FnOnce() -> Names) -> Vec<String> {
    if last.starts_with('-') {
        return command.flag_names().chain(["--json"]).map(str::to_owned).collect();
    }
    match command.arguments.get(given) {
        None | Some(Argument::NewVm) => Vec::new(),
        Some(Argument::Vm) => names().vms.iter().map(ToString::to_string).collect(),
        Some(Argument::Host | Argument::OptionalHost) => names().hosts.iter().map(ToString::to_string).collect(),
        Some(Argument::Datastore) => names().datastores.iter().map(ToString::to_string).collect(),
        Some(Argument::Migration) => names().migrations,
        Some(Argument::OptionalRole) => ROLES.map(str::to_owned).to_vec(),
    }
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let line = &line[..position];
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        Ok((start, candidates(line, || self.names()).into_iter().map(|candidate| candidate + " ").collect()))
    }
}

impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str) -> Vec<String> {
        candidates(line, || Names {
            vms: vec!["web".parse().expect("valid"), "db".parse().expect("valid")],
            hosts: vec!["host-b".parse().expect("valid")],
            ..Names::default()
        })
    }

    #[test]
    fn commands_and_live_names_are_completed() {
        assert_eq!(offered("da"), ["datastore"]);
        assert_eq!(offered("vm st"), ["start", "stop"]);
        assert_eq!(offered("vm start "), ["db", "web"]);
        assert_eq!(offered("vm migrate web "), ["host-b"]);
        assert_eq!(offered("vm clone "), ["db", "web"]);
        assert!(offered("vm clone web ").is_empty(), "the name of a clone is a new one");
        assert_eq!(
            offered("vm migrate web host-b --"),
            ["--bandwidth-max", "--check", "--force", "--json", "--no-wait", "--on-no-convergence"]
        );
        assert_eq!(offered("vm migrate web host-b --on-no-convergence "), ["abort", "force", "wait"]);
        assert_eq!(offered("network port"), ["port-group"]);
        assert!(offered("vm start web ").is_empty());
        assert_eq!(offered("host cpu --"), ["--baseline", "--compare", "--json"]);
        assert_eq!(offered("host cpu --compare "), ["host-b"]);
        assert_eq!(offered("host cpu --compare ho"), ["host-b"]);
    }
}
