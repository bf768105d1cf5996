//! The serial port: a line is an order, its answer stands between two marks. Before the answer of an order that waits for its
//! moment, `@armed TOKEN` says that the moment may come.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::time::Duration;

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::orders;

const PORT: &str = "/dev/ttyS1";
/// What the lab types first, to take back what somebody else left typed.
const TAKE_BACK: char = '\u{15}';

/// Serves for ever; waits for the device, which is there once the product has mounted `/dev`.
pub(crate) fn serve() -> io::Result<()> {
    let port = loop {
        match File::options().read(true).write(true).open(PORT) {
            Ok(port) => break port,
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let mut settings = tcgetattr(&port)?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings)?;
    let mut answers = port.try_clone()?;
    for line in BufReader::new(port).split(b'\r') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        let line = line.rsplit(TAKE_BACK).next().unwrap_or_default();
        let Some((token, order)) = line.strip_prefix("@exec ").and_then(|rest| rest.split_once(' ')) else { continue };
        let mut told = Ok(());
        let outcome =
            orders::carry_out(order, &mut || told = answers.write_all(format!("@armed {token}\n").as_bytes()));
        told?;
        let (mut text, status) = match outcome {
            Ok(text) => (text, 0),
            Err(text) => (text, 1),
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        answers.write_all(format!("@begin {token}\n{text}@end {token} {status}\n").as_bytes())?;
    }
    Ok(())
}
