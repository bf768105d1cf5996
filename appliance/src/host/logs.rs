//! The last lines of the roles' logs.

use model::diagnosis::Diagnosis;
use model::limits;

use crate::api::host::LogLine;
use crate::api::paths::RunDir;

/// Roles that a log can be asked of, and the file that holds each one's lines: monitors are this role's children, and
/// write where it writes.
const LOGS: [(&str, &str); 5] =
    [("init", "init"), ("host", "host"), ("lease", "lease"), ("migrate", "migrate"), ("vmm", "host")];

/// The levels that the journal writes.
const LEVELS: [&str; 4] = ["error", "warning", "info", "debug"];

/// What a line takes in a message beside its text, bytes, at most.
const LINE_BYTES: usize = 40;

/// The last lines of one role's log, or of all, as many as one message may carry.
///
/// # Errors
/// There is no such role, or its log cannot be read.
pub fn last_lines(run_dir: &RunDir, role: Option<&str>, lines: u32) -> Result<Vec<LogLine>, Diagnosis> {
    let what = "the log is not shown";
    let wanted: Vec<_> = LOGS.iter().filter(|(name, _)| role.is_none_or(|role| role == *name)).collect();
    if wanted.is_empty() {
        let known = LOGS.map(|(name, _)| name).join(", ");
        return Err(Diagnosis::new(what, format!("there is no role {}", role.unwrap_or_default()), known));
    }
    let mut shown = Vec::new();
    for (name, file) in wanted {
        let path = run_dir.log(file);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // A role that has said nothing yet has no log.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Diagnosis::new(what, format!("{}: {error}", path.display()), "host check")),
        };
        let own = text.lines().map(|line| understood(line, file)).filter(|line| line.role == *name);
        let mut own: Vec<LogLine> = own.collect();
        let first = own.len().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
        // In order of time within the file; a line without one belongs to the line before it.
        let mut at_ms = 0;
        shown.extend(own.drain(first..).map(|line| {
            at_ms = line.at_ms.unwrap_or(at_ms);
            (at_ms, line)
        }));
    }
    shown.sort_by_key(|(at_ms, _)| *at_ms);
    let mut shown: Vec<LogLine> = shown.into_iter().map(|(_, line)| line).collect();
    // Newest lines win where not all fit into one message.
    let mut room = usize::try_from(limits::API_MESSAGE_BYTES_MAX).unwrap_or(usize::MAX) / 2;
    let fitting = shown.iter().rev().take_while(|line| {
        room = room.saturating_sub(line.text.len() + LINE_BYTES);
        room > 0
    });
    let fitting = fitting.count();
    Ok(shown.split_off(shown.len() - fitting))
}

/// A line as the journal writes it, `<seconds>.<milliseconds> <role> <level>: <words>`. A panic's lines, for instance, have
/// another form, and belong to the file's own role.
fn understood(line: &str, file: &str) -> LogLine {
    let parts = || {
        let (at, rest) = line.split_once(' ')?;
        let (role, rest) = rest.split_once(' ')?;
        let (level, text) = rest.split_once(": ")?;
        let (seconds, millis) = at.split_once('.').filter(|(_, millis)| millis.len() == 3)?;
        let at_ms = seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis.parse().ok()?)?;
        let known = LOGS.iter().any(|(name, _)| *name == role) && LEVELS.contains(&level);
        let (role, level, text) = (role.to_owned(), Some(level.to_owned()), text.to_owned());
        known.then_some(LogLine { at_ms: Some(at_ms), role, level, text })
    };
    parts().unwrap_or_else(|| LogLine { at_ms: None, role: file.to_owned(), level: None, text: line.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_journal_has_its_parts_and_any_other_is_the_files_own() {
        let line = understood("12.007 vmm warning: web: late: 3 ms", "host");
        assert_eq!((line.at_ms, line.role.as_str(), line.level.as_deref()), (Some(12_007), "vmm", Some("warning")));
        assert_eq!(line.text, "web: late: 3 ms");
        for other in
            ["stack backtrace:", "1.5 vmm info: a", "1.500 nobody info: a", "1.500 vmm loud: a", "", "1.500 vmm info"]
        {
            let line = understood(other, "host");
            assert_eq!((line.at_ms, line.role.as_str(), line.level, line.text.as_str()), (None, "host", None, other));
        }
    }
}
