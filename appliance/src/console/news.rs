//! Shows above the prompt what happens on this host by itself, while nobody's command runs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustyline::ExternalPrinter;

use crate::api::channel::Channel;
use crate::api::host::{HostAnswer, HostRequest, NewsItem};

/// Items that are shown at once; of more, how many they are and where they stand.
const SHOWN: usize = 10;
/// Pause before a control plane that went away is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the control plane may take to answer, beyond its own patience.
const BOUND: Duration = Duration::from_secs(120);

/// Held by whoever writes on the terminal: a command, or the news.
pub(super) type Turn = Arc<Mutex<()>>;

/// Shows the news of the control plane behind `socket` for as long as this process lives.
pub(super) fn show(socket: &Path, printer: impl ExternalPrinter + Send + 'static, turn: &Turn) -> std::io::Result<()> {
    let (socket, turn) = (socket.to_owned(), Arc::clone(turn));
    std::thread::Builder::new().name("news".to_owned()).spawn(move || keep(&socket, printer, &turn)).map(|_| ())
}

fn keep(socket: &Path, mut printer: impl ExternalPrinter, turn: &Turn) {
    let mut seen = None;
    loop {
        if let Ok(channel) = Channel::<HostRequest, HostAnswer>::connect(socket) {
            while let Ok((HostAnswer::News { last, items }, _)) =
                channel.ask(&HostRequest::News { after: seen }, &[], BOUND)
            {
                seen = Some(last);
                if !items.is_empty() {
                    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                    // A terminal that cannot be written to has nobody to tell.
                    let _ = printer.print(told(&items));
                }
            }
        }
        std::thread::sleep(AGAIN);
    }
}

/// The lines for a terminal.
fn told(items: &[NewsItem]) -> String {
    let (shown, more) = items.split_at(items.len().min(SHOWN));
    let mut lines: String = shown.iter().map(line).collect();
    if !more.is_empty() {
        lines.push_str(&format!("({} more: log show host)\n", more.len()));
    }
    lines
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
    use super::*;

    #[test]
    fn news_are_a_line_each_and_many_at_once_do_not_drown_the_terminal() {
        let item = |level: &str| NewsItem { uptime: "7.250".into(), level: level.into(), text: "it happened".into() };
        assert_eq!(told(&[item("info")]), "[    7.250] it happened\n");
        assert_eq!(told(&[item("error")]), "[    7.250] error: it happened\n");
        let many = told(&vec![item("error"); SHOWN + 3]);
        assert_eq!(many.lines().count(), SHOWN + 1);
        assert!(many.ends_with("(3 more: log show host)\n"), "{many}");
    }
}
