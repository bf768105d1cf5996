//! What can be typed: one line for each command, from which parsing, help and completion all follow.

use model::config_tree::nearest;
use model::diagnosis::Diagnosis;

use crate::api::host::HostRequest;
use crate::api::migrate::Wish;

/// What an argument names; completion offers the live names of that kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A VM.
    Vm,
    /// A VM that is to be: a name that none has.
    NewVm,
    /// A host.
    Host,
    /// A datastore.
    Datastore,
    /// A migration.
    Migration,
    /// A role; it may be left out.
    OptionalRole,
    /// A host; it may be left out.
    OptionalHost,
}

impl Argument {
    fn usage(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::NewVm => "NEW",
            Self::Host => "HOST",
            Self::Datastore => "DATASTORE",
            Self::Migration => "ID",
            Self::OptionalRole => "[ROLE]",
            Self::OptionalHost => "[HOST]",
        }
    }
}

/// One command.
pub struct Command {
    /// Noun and verb.
    pub words: &'static [&'static str],
    /// What follows them.
    pub arguments: &'static [Argument],
    /// Flags beside `--json`; one that takes a value names its kind: `--compare HOST`.
    pub flags: &'static [&'static str],
    /// One line of help.
    pub about: &'static str,
    /// Another product's name for it.
    pub alias: &'static str,
    build: fn(&Words<'_>) -> Result<HostRequest, String>,
}

/// Arguments and flags of one typed command.
struct Words<'a> {
    arguments: &'a [&'a str],
    flags: &'a [&'a str],
    values: &'a [(&'a str, &'a str)],
}

impl Words<'_> {
    /// The argument at `at` as `T`; the count was checked before.
    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, at: usize) -> Result<T, String> {
        valid(self.arguments[at])
    }

    /// The value of a flag as `T`, where it was given.
    fn value<T: std::str::FromStr<Err: std::fmt::Display>>(&self, flag: &str) -> Result<Option<T>, String> {
        self.values.iter().find(|(given, _)| *given == flag).map(|(_, text)| valid(text)).transpose()
    }
}

fn valid<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("\"{text}\" is not valid: {error}"))
}

const fn plain(
    words: &'static [&'static str],
    arguments: &'static [Argument],
    about: &'static str,
    build: fn(&Words<'_>) -> Result<HostRequest, String>,
) -> Command {
    Command { words, arguments, flags: &[], about, alias: "", build }
}

const fn aliased(alias: &'static str, command: Command) -> Command {
    Command { alias, ..command }
}

use Argument::{Datastore, Host, Migration, NewVm, OptionalHost, OptionalRole, Vm};

/// Every command, in the order of the help.
pub const COMMANDS: &[Command] = &[
    aliased(
        "esxcli system version get",
        plain(&["host", "show"], &[OptionalHost], "this host, or what another tells of itself", |w| {
            if w.arguments.is_empty() {
                Ok(HostRequest::HostShow)
            } else {
                Ok(HostRequest::HostShowOther(w.parsed(0)?))
            }
        }),
    ),
    plain(&["host", "list"], &[], "hosts that share a datastore with this one", |_| Ok(HostRequest::HostList)),
    plain(&["host", "check"], &[], "look for what is wrong with this host", |_| Ok(HostRequest::HostCheck)),
    Command {
        words: &["host", "cpu"],
        arguments: &[],
        flags: &["--compare HOST", "--baseline"],
        about: "what the processor can show a VM",
        alias: "",
        build: |w| match (w.value("--compare")?, w.flags.contains(&"--baseline")) {
            (None, false) => Ok(HostRequest::HostCpu),
            (Some(host), false) => Ok(HostRequest::HostCpuCompare(host)),
            (None, true) => Ok(HostRequest::HostCpuBaseline),
            (Some(_), true) => Err("--compare and --baseline are two questions".to_owned()),
        },
    },
    plain(&["host", "maintenance", "enter"], &[], "no VM starts here or moves to here", |_| {
        Ok(HostRequest::HostMaintenance { on: true })
    }),
    plain(&["host", "maintenance", "exit"], &[], "VMs start here and move to here again", |_| {
        Ok(HostRequest::HostMaintenance { on: false })
    }),
    aliased(
        "esxcli system shutdown reboot",
        Command {
            flags: &["--force"],
            ..plain(&["host", "reboot"], &[], "shut VMs down, restart (--force: by init)", |_| {
                Ok(HostRequest::HostReboot)
            })
        },
    ),
    aliased(
        "esxcli system shutdown poweroff",
        Command {
            flags: &["--force"],
            ..plain(&["host", "shutdown"], &[], "shut down VMs and host (--force: by init)", |_| {
                Ok(HostRequest::HostShutdown)
            })
        },
    ),
    aliased(
        "esxcli vm process list",
        plain(&["vm", "list"], &[], "VMs of all datastores", |_| Ok(HostRequest::VmList)),
    ),
    plain(&["vm", "show"], &[Vm], "a VM, where it runs and who holds it", |w| Ok(HostRequest::VmShow(w.parsed(0)?))),
    plain(&["vm", "check"], &[Vm], "whether it could start here", |w| Ok(HostRequest::VmCheck(w.parsed(0)?))),
    plain(&["vm", "start"], &[Vm], "start it on this host", |w| Ok(HostRequest::VmStart(w.parsed(0)?))),
    plain(&["vm", "stop"], &[Vm], "press its power button", |w| Ok(HostRequest::VmStop(w.parsed(0)?))),
    aliased(
        "esxcli vm process kill",
        plain(&["vm", "kill"], &[Vm], "end it at once, as if the power failed", |w| {
            Ok(HostRequest::VmKill(w.parsed(0)?))
        }),
    ),
    plain(&["vm", "pause"], &[Vm], "stop its vCPUs", |w| Ok(HostRequest::VmPause(w.parsed(0)?))),
    plain(&["vm", "resume"], &[Vm], "let its vCPUs run again", |w| Ok(HostRequest::VmResume(w.parsed(0)?))),
    plain(&["vm", "console"], &[Vm], "its serial port; Ctrl-] leaves", |w| Ok(HostRequest::VmConsole(w.parsed(0)?))),
    plain(&["vm", "clone"], &[Vm, NewVm], "make a VM like it, with disks of its own", |w| {
        Ok(HostRequest::VmClone { vm: w.parsed(0)?, new: w.parsed(1)? })
    }),
    Command {
        words: &["vm", "migrate"],
        arguments: &[Vm, Host],
        flags: &["--check", "--force", "--no-wait", "--bandwidth-max MBITS", "--on-no-convergence wait|force|abort"],
        about: "move it while it runs (--check: look)",
        alias: "",
        build: |w| {
            let [check_only, force_link, no_wait] =
                ["--check", "--force", "--no-wait"].map(|flag| w.flags.contains(&flag));
            if check_only && no_wait {
                return Err("a check has to be waited for: --no-wait and --check do not go together".to_owned());
            }
            let no_convergence = w.value("--on-no-convergence")?.unwrap_or_default();
            let wish = Wish { check_only, force_link, no_convergence, bandwidth_max: w.value("--bandwidth-max")? };
            Ok(HostRequest::VmMigrate { vm: w.parsed(0)?, destination: w.parsed(1)?, wish, no_wait })
        },
    },
    plain(&["lease", "list"], &[], "who holds which VM", |_| Ok(HostRequest::LeaseList)),
    plain(&["lease", "show"], &[Vm], "who may run a VM, and what can be done", |w| {
        Ok(HostRequest::LeaseShow(w.parsed(0)?))
    }),
    Command {
        words: &["lease", "break"],
        arguments: &[Vm],
        flags: &["--force"],
        about: "free it for all (--force: of a live host)",
        alias: "",
        build: |w| Ok(HostRequest::LeaseBreak { vm: w.parsed(0)?, force: w.flags.contains(&"--force") }),
    },
    plain(&["migration", "list"], &[], "moves under way and ended", |_| Ok(HostRequest::MigrationList)),
    plain(&["migration", "show"], &[Migration], "the receipt of a move", |w| {
        Ok(HostRequest::MigrationShow(w.arguments[0].to_owned()))
    }),
    plain(&["migration", "cancel"], &[Migration], "give a move up", |w| {
        Ok(HostRequest::MigrationCancel(w.arguments[0].to_owned()))
    }),
    aliased(
        "esxcli storage filesystem list",
        plain(&["datastore", "list"], &[], "datastores of this host", |_| Ok(HostRequest::DatastoreList)),
    ),
    plain(&["datastore", "show"], &[Datastore], "a datastore", |w| Ok(HostRequest::DatastoreShow(w.parsed(0)?))),
    aliased(
        "esxcli network nic list",
        plain(&["network", "nics"], &[], "physical NICs", |_| Ok(HostRequest::NetworkNics)),
    ),
    aliased(
        "esxcli network vswitch standard portgroup list",
        plain(&["network", "port-group", "list"], &[], "port groups", |_| Ok(HostRequest::PortGroupList)),
    ),
    plain(&["network", "migration-nic"], &[], "the NIC of the migration stack", |_| Ok(HostRequest::MigrationNic)),
    aliased(
        "vmkping",
        plain(&["network", "ping"], &[Host], "measure the migration link to it", |w| {
            Ok(HostRequest::NetworkPing(w.parsed(0)?))
        }),
    ),
    plain(&["log", "show"], &[OptionalRole], "the last lines of the logs", |w| {
        Ok(HostRequest::LogShow { role: w.arguments.first().map(|role| (*role).to_owned()), lines: 100 })
    }),
    plain(&["config", "show"], &[], "the configuration in force and its layers", |_| Ok(HostRequest::ConfigShow)),
];

impl Command {
    /// How it is typed: `vm migrate VM HOST [--check] [--force]`.
    pub fn usage(&self) -> String {
        let mut usage = self.words.join(" ");
        for argument in self.arguments {
            usage.push(' ');
            usage.push_str(argument.usage());
        }
        for flag in self.flags {
            usage.push_str(&format!(" [{flag}]"));
        }
        usage
    }

    /// The kind of the value that a flag takes: `HOST`; none where it takes none, or is no flag of this command.
    pub fn value_of(&self, flag: &str) -> Option<&'static str> {
        self.flags
            .iter()
            .filter_map(|known| known.split_once(' '))
            .find(|(known, _)| *known == flag)
            .map(|(_, kind)| kind)
    }

    /// The flags as they are typed, without what follows them.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        self.flags.iter().filter_map(|flag| flag.split(' ').next())
    }

    fn least_arguments(&self) -> usize {
        self.arguments.iter().filter(|argument| !matches!(argument, OptionalRole | OptionalHost)).count()
    }
}

/// A typed line, understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing was typed.
    Empty,
    /// Help, on what the words begin with.
    Help(Vec<String>),
    /// A request.
    Ask(HostRequest),
}

/// Whether what is answered to a typed line is wanted as JSON, understood or not.
pub fn wants_json(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "--json")
}

/// Whether it is to be done in spite of what usually refuses it; for commands that the console carries out itself.
pub fn wants_force(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "--force")
}

/// Understands a typed line.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn parse(line: &str) -> Result<Line, Diagnosis> {
    let typed: Vec<&str> = line.split_whitespace().collect();
    let (flags, words): (Vec<&str>, Vec<&str>) = typed.iter().partition(|word| word.starts_with("--"));
    if let Some(at) = words.iter().position(|word| matches!(*word, "help" | "?")) {
        let topic = words.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, word)| (*word).to_owned());
        return Ok(Line::Help(topic.collect()));
    }
    if words.is_empty() {
        return Ok(Line::Empty);
    }
    let refused =
        |cause: String, hint: String| Diagnosis::new(format!("\"{}\" was not done", line.trim()), cause, hint);
    let Some((command, length)) = find(&words) else {
        return Err(refused("there is no such command".to_owned(), hint_for(&words)));
    };
    let (words, values) = apart(command, &typed).map_err(|flag| {
        let kind = command.value_of(flag).unwrap_or_default();
        refused(format!("{flag} wants a {kind} behind it"), command.usage())
    })?;
    let Some(arguments) = words.get(length..) else {
        return Err(refused("a flag stands among the words of the command".to_owned(), command.usage()));
    };
    if arguments.len() < command.least_arguments() || arguments.len() > command.arguments.len() {
        let given = match arguments.len() {
            1 => "1 argument was given".to_owned(),
            many => format!("{many} arguments were given"),
        };
        let (least, most) = (command.least_arguments(), command.arguments.len());
        let wanted = if least == most { most.to_string() } else { format!("{least} to {most}") };
        return Err(refused(format!("{given}, {wanted} wanted"), command.usage()));
    }
    let known = |flag: &str| flag == "--json" || command.flag_names().any(|known| known == flag);
    if let Some(flag) = flags.iter().find(|flag| !known(flag)) {
        return Err(refused(format!("{flag} means nothing here"), format!("{} [--json]", command.usage())));
    }
    let request = (command.build)(&Words { arguments, flags: &flags, values: &values })
        .map_err(|cause| refused(cause, command.usage()))?;
    Ok(Line::Ask(request))
}

/// Flags with their values.
type Values<'a> = Vec<(&'a str, &'a str)>;

/// Takes the values of flags out of what was typed: the words that are left, and the values.
///
/// # Errors
/// A flag that lacks its value.
fn apart<'a>(command: &Command, typed: &[&'a str]) -> Result<(Vec<&'a str>, Values<'a>), &'a str> {
    let (mut words, mut values) = (Vec::new(), Vec::new());
    let mut rest = typed.iter().copied();
    while let Some(word) = rest.next() {
        if command.value_of(word).is_some() {
            values.push((word, rest.next().filter(|value| !value.starts_with("--")).ok_or(word)?));
        } else if !word.starts_with("--") {
            words.push(word);
        }
    }
    Ok((words, values))
}

/// The command that the words begin with, by its own name or its alias, and how many words that name has.
fn find(words: &[&str]) -> Option<(&'static Command, usize)> {
    let own = COMMANDS.iter().filter(|command| words.starts_with(command.words)).map(|c| (c, c.words.len()));
    let alias = COMMANDS.iter().filter(|command| !command.alias.is_empty()).filter_map(|command| {
        let alias: Vec<&str> = command.alias.split(' ').collect();
        words.starts_with(&alias).then_some((command, alias.len()))
    });
    own.chain(alias).max_by_key(|(_, length)| *length)
}

fn hint_for(words: &[&str]) -> String {
    let nouns: Vec<&str> = COMMANDS.iter().map(|command| command.words[0]).collect();
    if !nouns.contains(&words[0]) {
        return nearest(words[0], &nouns).map_or_else(|| "help".to_owned(), |near| format!("help {near}"));
    }
    let verbs: Vec<&str> = COMMANDS.iter().filter(|c| c.words[0] == words[0]).map(|c| c.words[1]).collect();
    // What begins so, and goes on.
    let begun: Vec<String> =
        COMMANDS.iter().filter(|command| command.words.starts_with(words)).map(Command::usage).collect();
    if words.len() > 1 && !begun.is_empty() {
        return begun.join("; ");
    }
    match words.get(1).and_then(|verb| nearest(verb, &verbs)) {
        Some(near) => format!("{} {near}", words[0]),
        None => format!("help {}", words[0]),
    }
}

/// The help on what `topic` begins with; on everything if it is empty.
///
/// # Errors
/// No command begins so.
pub fn help(topic: &[String]) -> Result<String, Diagnosis> {
    let concerns = |command: &&Command| topic.iter().zip(command.words).all(|(typed, word)| typed == word);
    let commands: Vec<&Command> = COMMANDS.iter().filter(concerns).collect();
    if commands.is_empty() {
        let topic = topic.join(" ");
        return Err(Diagnosis::new(format!("there is no help on \"{topic}\""), "no command begins so", "help"));
    }
    let width = commands.iter().map(|command| command.usage().len()).max().unwrap_or(0).min(36);
    let mut text = String::new();
    for command in &commands {
        let (usage, about) = (command.usage(), command.about);
        // What is too long for the line stands above what it is about.
        let apart = if usage.len() + about.len() > 78 { format!("\n{:width$}", "") } else { String::new() };
        let usage = folded(&usage);
        text.push_str(&format!("{usage:width$}{apart}  {about}\n"));
    }
    text.push_str("\nEvery command takes --json. Tab completes; Ctrl-C gives up what is waited for.");
    Ok(text)
}

/// A usage in lines that fit the terminal: flags that do not fit stand in the next.
fn folded(usage: &str) -> String {
    const FITS: usize = 78;
    let (mut text, mut length) = (String::new(), 0);
    for part in usage.split_inclusive(']') {
        if length + part.len() > FITS {
            text.push_str("\n   ");
            length = 3;
        }
        text.push_str(part);
        length += part.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use protocol::convergence::NoConvergence;

    use super::*;
    use crate::api::migrate::BandwidthMax;

    #[test]
    fn each_line_of_the_help_fits_the_terminal() {
        let all = help(&[]).expect("help on all");
        assert_eq!(all.lines().filter(|line| line.chars().count() > 80).collect::<Vec<_>>(), Vec::<&str>::new());
        let migrate: Vec<_> = all.lines().skip_while(|line| !line.starts_with("vm migrate")).take(3).collect();
        assert_eq!(
            migrate,
            [
                "vm migrate VM HOST [--check] [--force] [--no-wait] [--bandwidth-max MBITS]",
                "    [--on-no-convergence wait|force|abort]",
                "                                      move it while it runs (--check: look)",
            ],
            "{all}"
        );
    }

    #[test]
    fn an_order_stands_in_the_log_as_it_is_typed_and_a_question_does_not() {
        let order = |line: &str| match parse(line) {
            Ok(Line::Ask(request)) => request.order(),
            other => panic!("{line}: {other:?}"),
        };
        let vms = ["start", "stop", "kill", "pause", "resume", "console"].map(|verb| format!("vm {verb} web"));
        let hosts = ["maintenance enter", "maintenance exit", "reboot", "shutdown"].map(|verb| format!("host {verb}"));
        let others = [
            "vm clone web web2",
            "vm migrate web host-b",
            "vm migrate web host-b --force --bandwidth-max 2000 --on-no-convergence wait",
            "vm migrate web host-b --no-wait",
            "lease break web",
            "lease break web --force",
        ];
        for line in vms.into_iter().chain(hosts).chain(others.map(str::to_owned)) {
            assert_eq!(order(&line), Some(line));
        }
        for question in ["vm list", "vm migrate web host-b --check", "host check", "network ping host-b", "log show"] {
            assert_eq!(order(question), None, "{question}");
        }
    }

    #[test]
    fn a_typed_command_becomes_its_request() {
        let migrate = parse("vm migrate web host-b --check --json").expect("understood");
        let request = HostRequest::VmMigrate {
            vm: "web".parse().expect("valid"),
            destination: "host-b".parse().expect("valid"),
            wish: Wish { check_only: true, ..Wish::default() },
            no_wait: false,
        };
        assert_eq!(migrate, Line::Ask(request));
        let forced = parse("vm migrate web host-b --on-no-convergence force").expect("understood");
        let Line::Ask(HostRequest::VmMigrate { wish, .. }) = forced else { panic!("{forced:?}") };
        assert_eq!(wish, Wish { no_convergence: NoConvergence::Force, ..Wish::default() });
        let bound = parse("vm migrate web host-b --bandwidth-max 2000").expect("understood");
        let Line::Ask(HostRequest::VmMigrate { wish, .. }) = bound else { panic!("{bound:?}") };
        assert_eq!(wish.bandwidth_max.map(BandwidthMax::bytes_per_s), Some(250_000_000));
        for none in ["0", "1000001", "-1", "2.5", "fast"] {
            let refusal =
                parse(&format!("vm migrate web host-b --bandwidth-max {none}")).expect_err("none").to_string();
            assert!(refusal.contains("is not valid: it is a whole number of Mbit/s, from 1 to 1000000"), "{refusal}");
        }
        let refusal = parse("vm migrate web host-b --on-no-convergence hope").expect_err("no such word").to_string();
        assert!(refusal.contains("\"hope\" is not valid: it is wait"), "{refusal}");
        let left_alone = parse("vm migrate web host-b --no-wait").expect("understood");
        assert!(matches!(left_alone, Line::Ask(HostRequest::VmMigrate { no_wait: true, .. })), "{left_alone:?}");
        let refusal = parse("vm migrate web host-b --no-wait --check").expect_err("it tells nothing").to_string();
        assert!(refusal.contains("do not go together"), "{refusal}");
        assert_eq!(parse("esxcli vm process list").expect("understood"), Line::Ask(HostRequest::VmList));
        assert_eq!(parse("  ").expect("understood"), Line::Empty);
        assert_eq!(parse("vm ?").expect("understood"), Line::Help(vec!["vm".to_owned()]));
    }

    #[test]
    fn a_flag_takes_the_word_behind_it_wherever_it_stands() {
        let compare = Line::Ask(HostRequest::HostCpuCompare("host-b".parse().expect("valid")));
        for line in
            ["host cpu --compare host-b", "host cpu --json --compare host-b", "host cpu --compare host-b --json"]
        {
            assert_eq!(parse(line).expect("understood"), compare, "{line}");
        }
        assert_eq!(parse("host cpu --baseline").expect("understood"), Line::Ask(HostRequest::HostCpuBaseline));
        assert_eq!(parse("host cpu").expect("understood"), Line::Ask(HostRequest::HostCpu));
        let cause = |line: &str| parse(line).expect_err("refused").reasons[0].cause.clone();
        assert_eq!(cause("host cpu --compare"), "--compare wants a HOST behind it");
        assert_eq!(cause("host cpu --compare --json"), "--compare wants a HOST behind it");
        assert_eq!(cause("host cpu host-b"), "1 argument was given, 0 wanted");
        assert_eq!(cause("host cpu --compare host-b host-c"), "1 argument was given, 0 wanted");
        assert_eq!(cause("host cpu --baseline --compare host-b"), "--compare and --baseline are two questions");
        assert!(cause("host cpu --compare HOST-B").starts_with("\"HOST-B\" is not valid"));
        assert_eq!(cause("host --compare cpu"), "a flag stands among the words of the command");
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_console_panic(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "host", "cpu", "--compare", "--baseline", "--json", "vm", "migrate", "web", "--check", "help", "", "-- ",
                ]),
                0..8,
            )
        ) {
            // Understood or refused.
            let _ = parse(&words.join(" "));
        }
    }

    #[test]
    fn what_is_mistyped_is_answered_with_what_would_be_right() {
        let hint = |line: &str| parse(line).expect_err("refused").reasons[0].hint.clone();
        assert_eq!(hint("vm strat web"), "vm start");
        assert_eq!(hint("hots list"), "help host");
        assert_eq!(hint("vm start"), "vm start VM");
        assert_eq!(hint("vm start web --force"), "vm start VM [--json]");
        assert_eq!(hint("vm start ../x"), "vm start VM");
        assert_eq!(hint("vm clone web"), "vm clone VM NEW");
        assert_eq!(hint("vm clone web ../x"), "vm clone VM NEW");
    }

    #[test]
    fn every_line_of_help_fits_the_terminal() {
        for line in help(&[]).expect("there are commands").lines() {
            assert!(line.len() <= 80, "{line}");
        }
    }
}
