//! Shows above the prompt what happens on this host by itself, while nobody's command runs.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustyline::ExternalPrinter;

use crate::api::channel::Channel;
use crate::api::host::{HostAnswer, HostRequest, NewsItem};

/// Items that are shown at once; of more, how many they are and where they stand.
const SHOWN: usize = 10;
/// Pause before a control plane that went away is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a command waits for news that are being written.
const PATIENCE: Duration = Duration::from_millis(200);
/// Pause between two looks whether they are written.
const LOOK: Duration = Duration::from_millis(5);
/// How long the control plane may take to answer, beyond its own patience.
const BOUND: Duration = Duration::from_secs(120);

/// Who writes on the terminal: a command, or the news.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// For the news: waits until no command runs.
    fn for_news(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a command. It goes on without its turn if the news keep it: they may wait for a prompt to be drawn, which comes
    /// after the command.
    pub(super) fn for_command(&self) -> Option<MutexGuard<'_, ()>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_lock() {
                Ok(turn) => return Some(turn),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
            }
        }
    }
}

/// Shows the news of the control plane behind `socket` for as long as this process lives.
pub(super) fn show(socket: &Path, printer: impl ExternalPrinter + Send + 'static, turn: &Turn) -> std::io::Result<()> {
    let (socket, turn) = (socket.to_owned(), turn.clone());
    std::thread::Builder::new().name("news".to_owned()).spawn(move || keep(&socket, printer, &turn)).map(|_| ())
}

fn keep(socket: &Path, mut printer: impl ExternalPrinter, turn: &Turn) {
    let mut seen = None;
    loop {
        let Ok(channel) = Channel::<HostRequest, HostAnswer>::connect(socket) else {
            // A control plane that starts after this console tells it everything, as one that is restarted does.
            seen = seen.or(Some(0));
            std::thread::sleep(AGAIN);
            continue;
        };
        while let Ok((answer, _)) = channel.ask(&HostRequest::News { after: seen }, &[], BOUND) {
            // Another answer says that these news cannot be told: the next can.
            let HostAnswer::News { last, items } = answer else {
                seen = None;
                break;
            };
            seen = Some(last);
            if !items.is_empty() {
                let _turn = turn.for_news();
                // A terminal that cannot be written to has nobody to tell.
                let _ = printer.print(told(&items));
            }
        }
        std::thread::sleep(AGAIN);
    }
}

/// The lines for a terminal: the newest, and how many came before them.
fn told(items: &[NewsItem]) -> String {
    let (before, shown) = items.split_at(items.len().saturating_sub(SHOWN));
    let more = (!before.is_empty()).then(|| format!("({} before these: log show host)\n", before.len()));
    more.into_iter().chain(shown.iter().map(line)).collect()
}

fn line(item: &NewsItem) -> String {
    let NewsItem { uptime, level, text } = item;
    match level.as_str() {
        "info" => format!("[{uptime:>9}] {text}\n"),
        level => format!("[{uptime:>9}] {level}: {text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn news_are_a_line_each_and_many_at_once_do_not_drown_the_terminal() {
        let item = |level: &str| NewsItem { uptime: "7.250".into(), level: level.into(), text: "it happened".into() };
        assert_eq!(told(&[item("info")]), "[    7.250] it happened\n");
        assert_eq!(told(&[item("error")]), "[    7.250] error: it happened\n");
        let many = told(&[vec![item("error"); SHOWN + 2], vec![item("info")]].concat());
        assert_eq!(many.lines().count(), SHOWN + 1);
        assert!(many.starts_with("(3 before these: log show host)\n"), "{many}");
        assert!(many.ends_with("] it happened\n"), "the newest is shown: {many}");
    }

    #[test]
    fn news_that_wait_for_a_prompt_hold_no_command_up() {
        let turn = Turn::default();
        let _news = turn.for_news();
        assert!(turn.for_command().is_none());
    }

    #[test]
    fn news_wait_for_a_command() {
        let turn = Turn::default();
        let command = turn.for_command().expect("nobody has it");
        let over = Arc::new(AtomicBool::new(false));
        let (begun, begins) = std::sync::mpsc::channel();
        let (waits, is_over) = (turn.clone(), Arc::clone(&over));
        let news = std::thread::spawn(move || {
            begun.send(()).expect("heard");
            let _turn = waits.for_news();
            assert!(is_over.load(Ordering::SeqCst), "they came while the command ran");
        });
        begins.recv().expect("begun");
        // Time to go wrong in; nothing waits for it.
        std::thread::sleep(Duration::from_millis(50));
        over.store(true, Ordering::SeqCst);
        drop(command);
        news.join().expect("they come");
    }
}
