//! The console as a process on a terminal of its own; the test is its control plane, and the person who types.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use godwit::api::channel::{Channel, Listener};
use godwit::api::host::{HostAnswer, HostRequest, NewsItem};
use godwit::api::init::{InitRequest, RoleReport};
use godwit::api::paths::RunDir;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Generous: only a failure waits this long.
const BOUND: Duration = Duration::from_secs(60);

/// What happened on the host that the test plays, counted.
#[derive(Default)]
struct Happened {
    count: Mutex<u64>,
    more: Condvar,
}

impl Happened {
    fn once_more(&self) {
        *self.count.lock().expect("locked") += 1;
        self.more.notify_all();
    }

    fn answer(&self, after: Option<u64>) -> HostAnswer {
        let count = self.count.lock().expect("locked");
        let Some(after) = after else { return HostAnswer::News { last: *count, items: Vec::new() } };
        let count = self.more.wait_while(count, |count| *count <= after).expect("locked");
        let item =
            |number| NewsItem { uptime: "1.000".into(), level: "warning".into(), text: format!("news {number}") };
        HostAnswer::News { last: *count, items: (after..*count).map(item).collect() }
    }
}

struct Terminal {
    console: Child,
    line: File,
    seen: Arc<Mutex<String>>,
    happened: Arc<Happened>,
    folder: PathBuf,
}

/// How the test plays the control plane on one connection.
type Plays = fn(&Happened, &Channel<HostAnswer, HostRequest>);

impl Terminal {
    fn open(name: &str) -> Self {
        Self::open_before(name, serve)
    }

    fn open_before(name: &str, plays: Plays) -> Self {
        let folder = std::env::temp_dir().join(format!("godwit-console-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        let listener = Listener::bind(&RunDir::at(&folder).socket("host")).expect("bound");
        let happened = Arc::<Happened>::default();
        let host = Arc::clone(&happened);
        std::thread::spawn(move || {
            while let Ok(channel) = listener.accept::<HostAnswer, HostRequest>() {
                let host = Arc::clone(&host);
                std::thread::spawn(move || plays(&host, &channel));
            }
        });
        let line = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&line).and_then(|()| unlockpt(&line)).expect("granted");
        let path = ptsname(&line, Vec::new()).expect("named").into_string().expect("text");
        let end = File::options().read(true).write(true).open(path).expect("opened");
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
        command.args(["console", "test"]).env("GODWIT_RUN", &folder).env("TERM", "vt100");
        command.stdin(end.try_clone().expect("cloned")).stdout(end);
        let console = command.spawn().expect("started");
        let line = File::from(line);
        let (seen, mut from) = (Arc::<Mutex<String>>::default(), line.try_clone().expect("cloned"));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                kept.lock().expect("locked").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let terminal = Self { console, line, seen, happened, folder };
        terminal.wait_for("> ");
        terminal
    }

    fn types(&mut self, text: &str) {
        self.line.write_all(text.as_bytes()).expect("typed");
    }

    fn wait_for(&self, what: &str) {
        let began = Instant::now();
        while !self.seen.lock().expect("locked").contains(what) {
            assert!(began.elapsed() < BOUND, "no {what:?} in {:?}", self.seen.lock().expect("locked"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may be gone, and its folder with it.
        let _ = self.console.kill();
        let _ = self.console.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn serve(host: &Happened, channel: &Channel<HostAnswer, HostRequest>) {
    while let Ok((request, _)) = channel.receive() {
        let answer = match request {
            HostRequest::News { after } => host.answer(after),
            _ => HostAnswer::Done("it is done".to_owned()),
        };
        if channel.send(&answer, &[]).is_err() {
            return;
        }
    }
}

#[test]
fn what_happens_by_itself_stands_above_the_prompt() {
    let terminal = Terminal::open("news");
    // It asks what there is to be told from its start on, and is told what comes then.
    let began = Instant::now();
    while !terminal.seen.lock().expect("locked").contains("warning: news") {
        assert!(began.elapsed() < BOUND, "{:?}", terminal.seen.lock().expect("locked"));
        terminal.happened.once_more();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn news_that_come_while_a_program_types_hold_no_command_up() {
    let mut terminal = Terminal::open("burst");
    for turn in 0..20 {
        let happened = Arc::clone(&terminal.happened);
        let burst = std::thread::spawn(move || {
            for _ in 0..30 {
                happened.once_more();
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        terminal.types(&format!("@exec t{turn} host check and a long line so that its keys come in several reads\r"));
        terminal.wait_for(&format!("@end t{turn} "));
        burst.join().expect("told");
    }
}

#[test]
fn of_lines_that_are_pasted_each_is_run() {
    let mut terminal = Terminal::open("paste");
    terminal.types("@exec a host show\r@exec b host show\r@exec c host show\r");
    for token in ["a", "b", "c"] {
        terminal.wait_for(&format!("@end {token} "));
    }
}

/// A control plane that stands still before it took anything up.
fn stand_still(_: &Happened, _: &Channel<HostAnswer, HostRequest>) {
    loop {
        std::thread::park();
    }
}

/// One that takes a command up, and then stands still.
fn take_up_and_stand_still(host: &Happened, channel: &Channel<HostAnswer, HostRequest>) {
    if channel.receive().is_ok_and(|(request, _)| request.is_typed()) {
        let _ = channel.send(&HostAnswer::TakenUp, &[]);
    }
    stand_still(host, channel);
}

/// One that does not answer a command for long, and lives.
fn take_up_and_live(host: &Happened, channel: &Channel<HostAnswer, HostRequest>) {
    if channel.receive().is_ok() {
        let _ = channel.send(&HostAnswer::TakenUp, &[]);
    }
    stand_still(host, channel);
}

#[test]
fn a_command_that_a_silent_control_plane_does_not_take_up_ends_by_itself_and_says_so() {
    let mut terminal = Terminal::open_before("silent", stand_still);
    terminal.types("@exec a vm list\r");
    terminal.wait_for("@end a 1");
    terminal.types("@exec b vm kill web\r");
    terminal.wait_for("@end b 1");
    for told in
        ["was not answered", "was not carried out, and will not be", "(role host) stands still", "host reboot --force"]
    {
        terminal.wait_for(told);
    }
}

#[test]
fn a_command_that_a_control_plane_took_up_before_it_stood_still_ends_by_itself_and_claims_nothing() {
    let mut terminal = Terminal::open_before("taken", take_up_and_stand_still);
    terminal.types("@exec a vm kill web\r");
    terminal.wait_for("@end a 1");
    terminal.wait_for("is not known here; VM web may be as it was");
    terminal.wait_for("(role host) stands still");
}

#[test]
fn a_command_of_a_control_plane_that_lives_is_waited_for_however_silent_it_is() {
    let mut terminal = Terminal::open_before("lives", take_up_and_live);
    terminal.types("@exec a vm kill web\r");
    // One that stands still is given up after half of this.
    std::thread::sleep(Duration::from_secs(30));
    assert!(!terminal.seen.lock().expect("locked").contains("@end a"));
    // Two that come in one breath count as one.
    let began = Instant::now();
    while !terminal.seen.lock().expect("locked").contains("@end a 1") {
        assert!(began.elapsed() < BOUND, "{:?}", terminal.seen.lock().expect("locked"));
        terminal.types("\x03");
        std::thread::sleep(Duration::from_millis(500));
    }
    terminal.wait_for("Ctrl-C was pressed again");
}

#[test]
fn ctrl_c_gives_up_what_a_silent_control_plane_did_not_take_up() {
    let mut terminal = Terminal::open_before("ctrl-c", stand_still);
    for command in ["vm kill web", "host reboot", "vm list"] {
        terminal.seen.lock().expect("locked").clear();
        terminal.types(&format!("{command}\r"));
        terminal.wait_for("Ctrl-C gives it up");
        terminal.types("\x03");
        terminal.wait_for("Ctrl-C was pressed before");
        terminal.wait_for("> ");
    }
}

#[test]
fn the_end_of_a_host_whose_control_plane_is_silent_is_asked_of_init_only_by_force_or_where_a_person_wants_it() {
    let mut terminal = Terminal::open_before("by-init", stand_still);
    let init = Listener::bind(&RunDir::at(&terminal.folder).socket("init")).expect("bound");
    let (given, orders) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(channel) = init.accept::<Vec<RoleReport>, InitRequest>() {
            let Ok((order, _)) = channel.receive() else { continue };
            if given.send(order).is_err() || channel.send(&Vec::new(), &[]).is_err() {
                return;
            }
        }
    });
    terminal.types("@exec a host reboot\r");
    terminal.wait_for("@end a 1");
    terminal.types("host shutdown\r");
    terminal.wait_for("[y/N]");
    terminal.types("n");
    terminal.wait_for("no\r\n");
    assert!(orders.try_recv().is_err(), "nobody wanted it");
    terminal.types("@exec b host reboot --force\r");
    terminal.wait_for("@end b 0");
    assert_eq!(orders.recv_timeout(BOUND), Ok(InitRequest::Reboot));
    terminal.seen.lock().expect("locked").clear();
    terminal.types("host shutdown\r");
    terminal.wait_for("[y/N]");
    terminal.types("y");
    assert_eq!(orders.recv_timeout(BOUND), Ok(InitRequest::Shutdown));
}
