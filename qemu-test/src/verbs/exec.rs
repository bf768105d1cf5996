//! `cargo lab exec HOST -- COMMAND...`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::fleet;
use crate::home::Home;

/// Types one command, prints exactly what it printed, ends with its status.
pub(super) fn run(home: &Home, host: &str, command: &[String], bound: Duration) -> Result<ExitCode> {
    let answer = fleet::running(home)?.exec(host, &line(command), bound)?;
    std::io::stdout().write_all(answer.output.as_bytes()).doing("writing the command's output")?;
    Ok(ExitCode::from(answer.status))
}

/// The line that is typed: the console takes words apart at blanks, and knows no quotes.
fn line(command: &[String]) -> String {
    command.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_argument_and_several_give_the_line_that_somebody_would_type() {
        assert_eq!(line(&["vm list".to_owned()]), "vm list");
        assert_eq!(line(&["vm".to_owned(), "list".to_owned()]), "vm list");
    }
}
