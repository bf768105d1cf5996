//! `cargo lab exec HOST -- COMMAND...`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::fleet;
use crate::home::Home;

/// Types one command, prints exactly what it printed, ends with its status.
pub(super) fn run(home: &Home, host: &str, command: &[String], bound: Duration) -> Result<ExitCode> {
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let answer = fleet::running(home)?.exec(host, &words.join(" "), bound)?;
    std::io::stdout().write_all(answer.output.as_bytes()).doing("writing the command's output")?;
    Ok(ExitCode::from(answer.status))
}

/// A word as the console reads it back: quoted where it holds blanks or quotes.
fn quoted(word: &str) -> String {
    if !word.is_empty() && !word.contains([' ', '\t', '"', '\'', '\\']) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_blanks_stay_one_word() {
        assert_eq!(quoted("list"), "list");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("say \"x\""), "\"say \\\"x\\\"\"");
    }
}
