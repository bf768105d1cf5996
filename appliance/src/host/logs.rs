//! The last lines of the roles' logs.

use model::diagnosis::Diagnosis;
use model::limits;

use crate::api::paths::RunDir;

/// Roles that a log can be asked of, and the file that holds each one's lines: monitors are this role's children, and
/// write where it writes.
const LOGS: [(&str, &str); 5] =
    [("init", "init"), ("host", "host"), ("lease", "lease"), ("migrate", "migrate"), ("vmm", "host")];

/// The last lines of one role's log, or of all, as many as one message may carry.
///
/// # Errors
/// There is no such role, or its log cannot be read.
pub fn last_lines(run_dir: &RunDir, role: Option<&str>, lines: u32) -> Result<Vec<String>, Diagnosis> {
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
        // "<seconds> <role> <level>: <words>"; a panic's lines have another form and belong to the file's own role.
        let speaker = |line: &str| {
            line.split(' ').nth(1).filter(|word| LOGS.iter().any(|(name, _)| name == word)).map(str::to_owned)
        };
        let own: Vec<&str> = text.lines().filter(|line| speaker(line).as_deref().unwrap_or(file) == *name).collect();
        let first = own.len().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
        shown.extend(own[first..].iter().map(|line| (*line).to_owned()));
    }
    // Newest lines win where not all fit into one message.
    let mut room = usize::try_from(limits::API_MESSAGE_BYTES_MAX).unwrap_or(usize::MAX) / 2;
    let fitting = shown.iter().rev().take_while(|line| {
        room = room.saturating_sub(line.len() + 8);
        room > 0
    });
    let fitting = fitting.count();
    Ok(shown.split_off(shown.len() - fitting))
}
