//! The journal that a witness keeps on its disk, judged by its guest and from outside, by the file.

use std::path::Path;

use witness_kernel::witness::journal::survey::Survey;

use super::Serial;

impl Serial {
    /// What a guest found of its journal when it started: all that was known to be flushed.
    pub(crate) fn journal_found(&mut self, name: &str, known: u64) {
        self.wait_for("witness: journal start ");
        let found = self.rest_of_line();
        println!("{name}: found its journal {found}");
        assert!(found.contains(" bad=0 ") && found.contains(" foreign=0"), "{name}: journal {found}");
        let flushed = number(&found, "flushed=");
        assert!(flushed >= known, "{name}: {known} were flushed once: journal {found}");
    }

    /// Has the guest flush its journal and read all of it back, where nothing may be lost, doubled or torn and every request
    /// answered, and reads the disk's file beside it. `known` is what was known to be flushed before; gives what is now.
    pub(crate) fn journal_whole(&mut self, name: &str, disk: &Path, known: u64) -> u64 {
        let audit = self.asked("j", "witness: journal audit ");
        println!("{name}: journal {audit}");
        assert!(audit.contains(" bad=0 unanswered=0"), "{name}: journal {audit}");
        let flushed = number(&audit, "flushed=");
        judge(disk, known.max(flushed));
        flushed
    }
}

fn number(line: &str, word: &str) -> u64 {
    line.split_whitespace().find_map(|part| part.strip_prefix(word)?.parse().ok()).expect("a number")
}

/// Everything up to `flushed`, and up to what the records themselves call flushed, is in the file.
pub(crate) fn judge(disk: &Path, flushed: u64) {
    let read = || Survey::of(&std::fs::read(disk).expect("it is there")).expect("large enough for a journal");
    // A guest that writes meanwhile may flush more than the part shows that was read first: it is read once more.
    let flushed = read().flushed().max(flushed);
    let damages: Vec<String> = read().damages(flushed).map(|damage| damage.to_string()).collect();
    assert!(damages.is_empty(), "{}, flushed up to {flushed}: {damages:#?}", disk.display());
}
