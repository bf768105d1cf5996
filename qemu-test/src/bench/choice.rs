//! What a person chose to measure: which cases, with which contestants, how often.

use crate::bench::case::Case;
use crate::bench::contestant::Contestant;
use crate::error::{LabError, Result};

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// How often each case is measured with each contestant.
    pub repetitions: u32,
    /// Which of them.
    pub choice: Choice,
}

impl Plan {
    /// What a person types for it.
    pub(super) fn command(&self, subject: &str) -> String {
        format!("cargo lab bench {subject} --repetitions {}{}", self.repetitions, self.choice.words())
    }
}

/// A choice; an empty one is all of it.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Only cases whose title holds each of these.
    pub only: Vec<String>,
    /// Only contestants whose name holds one of these.
    pub with: Vec<String>,
}

impl Choice {
    /// Whether nothing was left out.
    pub fn is_all(&self) -> bool {
        self.only.is_empty() && self.with.is_empty()
    }

    /// The cases of these.
    ///
    /// # Errors
    ///
    /// When no title holds the words.
    pub(super) fn cases(&self, all: &[Case]) -> Result<Vec<Case>> {
        let mut cases = all.to_vec();
        cases.retain(|case| self.only.iter().all(|word| case.title().contains(word)));
        if cases.is_empty() {
            let titles: Vec<String> = all.iter().map(|case| case.title()).collect();
            let only = self.only.join("\" and \"");
            return Err(LabError::Input(format!("no case's title holds \"{only}\"; they are: {}", titles.join("; "))));
        }
        Ok(cases)
    }

    /// Whether a contestant of this name is among them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.with.is_empty() || self.with.iter().any(|word| name.contains(word))
    }

    /// Leaves the contestants that were chosen; gives their names.
    ///
    /// # Errors
    ///
    /// When no name holds a word.
    pub(super) fn choose(&self, contestants: &mut Vec<&mut dyn Contestant>) -> Result<Vec<String>> {
        let names = |of: &[&mut dyn Contestant]| of.iter().map(|one| one.name()).collect::<Vec<_>>();
        let all = names(contestants);
        contestants.retain(|contestant| self.has(&contestant.name()));
        if contestants.is_empty() {
            return Err(LabError::Input(format!("no contestant is named so; they are: {}", all.join("; "))));
        }
        Ok(names(contestants))
    }

    /// The words that a person types for it, each after a blank.
    pub(super) fn words(&self) -> String {
        let word = |name: &str, words: &[String]| -> String {
            words.iter().map(|word| format!(" --{name} \"{word}\"")).collect()
        };
        word("only", &self.only) + &word("with", &self.with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case;

    fn choice(only: &[&str], with: &[&str]) -> Choice {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Choice { only: words(only), with: words(with) }
    }

    #[test]
    fn a_case_is_chosen_by_all_words_and_a_contestant_by_any() {
        let titles = |only: &[&str]| {
            choice(only, &[]).cases(&case::native()).map(|cases| cases.into_iter().map(Case::title).collect())
        };
        let chosen: Vec<String> = titles(&["2 GiB", "flat out"]).unwrap();
        assert_eq!(chosen, ["2 GiB, flat out, 50 ms", "2 GiB, flat out, 300 ms"]);
        let refused: Result<Vec<String>> = titles(&["3 GiB", "idle"]);
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("\"3 GiB\" and \"idle\"") && said.contains("512 MiB, idle, 50 ms"), "{said}");
        let some = choice(&["idle"], &["Godwit", "TLS"]);
        let names = ["Godwit", "QEMU q35, TCP", "QEMU q35, TCP, TLS"];
        assert_eq!(names.map(|name| some.has(name)), [true, false, true]);
        assert_eq!(some.words(), " --only \"idle\" --with \"Godwit\" --with \"TLS\"");
        assert!(!some.is_all() && choice(&[], &[]).is_all() && choice(&[], &[]).has("Godwit"));
    }
}
