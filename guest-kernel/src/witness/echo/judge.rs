//! What a client makes of the answers to requests that it numbered from 1. It sends nothing and looks at no clock: it is told.

use crate::witness::echo::message::Message;

/// Most requests that are judged.
pub const REQUESTS_MAX: u64 = 1 << 18;

/// What came of the requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests without an answer: those that are still under way count.
    pub lost: u64,
    /// How many runs of successive numbers these are.
    pub losses: u64,
    /// Answers that came once more, from the guest or from a copy on the way.
    pub duplicates: u64,
    /// Answers to a lower number than one before them.
    pub reordered: u64,
    /// Answers to what was never asked.
    pub strange: u64,
    /// Times that the guest's clock, or its count of answers, stood at less than in an answer before. Of answers that were
    /// overtaken on the way this is not known.
    pub clock_back: u64,
    /// Longest time between two answers, microseconds of the client's clock.
    pub gap_us: u64,
}

/// Judges one protocol's answers.
#[derive(Clone, Debug)]
pub struct Judge {
    verdict: Verdict,
    answered: [u64; (REQUESTS_MAX / 64) as usize],
    last: Message,
    heard_us: Option<u64>,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

impl Judge {
    /// Nothing was sent.
    pub const fn new() -> Self {
        Self {
            verdict: Verdict {
                sent: 0,
                lost: 0,
                losses: 0,
                duplicates: 0,
                reordered: 0,
                strange: 0,
                clock_back: 0,
                gap_us: 0,
            },
            answered: [0; (REQUESTS_MAX / 64) as usize],
            last: Message { number: 0, answered: 0, clock_us: 0 },
            heard_us: None,
        }
    }

    /// The next request, to be sent now; none if there were [`REQUESTS_MAX`].
    pub fn next_request(&mut self) -> Option<Message> {
        if self.verdict.sent == REQUESTS_MAX {
            return None;
        }
        self.verdict.sent += 1;
        Some(Message { number: self.verdict.sent, ..Message::default() })
    }

    /// An answer came when the client's clock stood at `now_us`.
    pub fn hear(&mut self, answer: Message, now_us: u64) {
        if answer.number == 0 || answer.number > self.verdict.sent {
            self.verdict.strange += 1;
            return;
        }
        let (word, bit) = ((answer.number - 1) / 64, 1 << ((answer.number - 1) % 64));
        let seen = &mut self.answered[word as usize];
        if *seen & bit != 0 {
            self.verdict.duplicates += 1;
            return;
        }
        *seen |= bit;
        self.verdict.gap_us = self.verdict.gap_us.max(now_us.saturating_sub(self.heard_us.unwrap_or(now_us)));
        self.heard_us = Some(now_us);
        if answer.number < self.last.number {
            self.verdict.reordered += 1;
            return;
        }
        let went_back = answer.clock_us < self.last.clock_us || answer.answered <= self.last.answered;
        self.verdict.clock_back += u64::from(went_back);
        self.last = answer;
    }

    /// The highest number that was answered.
    pub fn newest(&self) -> u64 {
        self.last.number
    }

    /// What came of it so far.
    pub fn verdict(&self) -> Verdict {
        let is_lost = |number: u64| self.answered[((number - 1) / 64) as usize] & 1 << ((number - 1) % 64) == 0;
        let lost = (1..=self.verdict.sent).filter(|number| is_lost(*number));
        let losses =
            (1..=self.verdict.sent).filter(|number| is_lost(*number) && (*number == 1 || !is_lost(number - 1)));
        Verdict { lost: lost.count() as u64, losses: losses.count() as u64, ..self.verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers, as number, count of answers and clock, a millisecond apart, to 100 requests.
    fn judged(answers: &[(u64, u64, u64)]) -> Verdict {
        let mut judge = Judge::new();
        (0..100).for_each(|_| _ = judge.next_request());
        for (at, (number, answered, clock_us)) in answers.iter().enumerate() {
            let answer = Message { number: *number, answered: *answered, clock_us: *clock_us };
            judge.hear(answer, at as u64 * 1000);
        }
        judge.verdict()
    }

    fn all() -> std::vec::Vec<(u64, u64, u64)> {
        (1..=100).map(|number| (number, number, number * 50)).collect()
    }

    #[test]
    fn answers_that_all_come_in_order_are_without_fault() {
        assert_eq!(judged(&all()), Verdict { sent: 100, gap_us: 1000, ..Verdict::default() });
    }

    #[test]
    fn losses_are_counted_with_their_runs() {
        let mut answers = all();
        answers.retain(|(number, ..)| !matches!(number, 1 | 10..=14 | 100));
        let verdict = judged(&answers);
        assert_eq!((verdict.lost, verdict.losses, verdict.clock_back), (7, 3, 0));
    }

    #[test]
    fn what_comes_twice_or_late_or_of_nowhere_is_told_apart() {
        let mut answers = all();
        answers.insert(20, (20, 20, 1000));
        answers.swap(50, 51);
        answers.push((101, 101, 5050));
        let verdict = judged(&answers);
        assert_eq!((verdict.duplicates, verdict.reordered, verdict.strange, verdict.lost), (1, 1, 1, 0));
        assert_eq!(verdict.clock_back, 0, "an answer that was overtaken is no clock that went back");
    }

    #[test]
    fn a_guest_that_goes_back_to_what_it_was_shows_in_its_clock_and_its_count() {
        let mut answers = all();
        answers[60].2 = 10;
        assert_eq!(judged(&answers).clock_back, 1);
        let mut answers = all();
        answers[60..].iter_mut().for_each(|(_, answered, _)| *answered -= 1);
        assert_eq!(judged(&answers).clock_back, 1);
    }
}
