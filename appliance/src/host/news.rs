//! What happens on this host by itself: consoles show it to whoever sits there, because nobody asks about what he does not
//! know of.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use log::{Level, Record};

use crate::api::host::NewsItem;
use crate::journal::{self, INFO, since_boot, uptime};

/// Items that are kept for a console that is busy.
const KEPT: usize = 200;
/// How long a console waits for news before it is told that there are none.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest text of an item, bytes: what a datastore says may be long, and one message holds [`KEPT`] of them.
const TEXT_BYTES_MAX: usize = 240;
/// A warning that was told within this time is not told again, unless something happened since that is no warning (it was over, and
/// is so again): what goes wrong again and again is tried again and again.
const AGAIN: Duration = Duration::from_secs(60);

/// The news of this process.
pub static NEWS: News = News::none();

/// The last things that happened, each numbered by when: microseconds since the machine started, or one more than the item
/// before. So the items of a control plane that was restarted follow those of the one before it.
#[derive(Debug)]
pub struct News {
    told: Mutex<VecDeque<(u64, NewsItem)>>,
    came: Condvar,
}

impl News {
    const fn none() -> Self {
        Self { told: Mutex::new(VecDeque::new()), came: Condvar::new() }
    }

    fn tell(&self, now: Duration, item: NewsItem) {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_sub(u64::try_from(AGAIN.as_micros()).unwrap_or(u64::MAX));
        let known = |(at, before): &(u64, NewsItem)| *at > since && before.text == item.text;
        let mut in_a_row = told.iter().rev().take_while(|(_, before)| before.level != INFO);
        if item.level != INFO && in_a_row.any(known) {
            return;
        }
        let number = told.back().map_or(now, |(last, _)| now.max(last + 1));
        told.push_back((number, item));
        if told.len() > KEPT {
            told.pop_front();
        }
        self.came.notify_all();
    }

    /// What came after item number `after`, as far as it is kept, and the number of the last item; waits some time for the
    /// first. Who has no number yet is given one at once, and nothing of the past.
    pub fn after(&self, after: Option<u64>) -> (u64, Vec<NewsItem>) {
        self.after_within(after, PATIENCE)
    }

    fn after_within(&self, after: Option<u64>, patience: Duration) -> (u64, Vec<NewsItem>) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = |told: &VecDeque<(u64, NewsItem)>| told.back().map_or(0, |(number, _)| *number);
        let Some(after) = after else { return (last(&told), Vec::new()) };
        let waited = self.came.wait_timeout_while(told, patience, |told| last(told) <= after);
        let (told, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let new = told.iter().filter(|(number, _)| *number > after).map(|(_, item)| item.clone());
        (last(&told).max(after), new.collect())
    }
}

/// What the journal of this process is told: a warning, an error, or what is marked as news, is news.
pub fn hear(record: &Record<'_>, text: &str) {
    if record.level() <= Level::Warn || record.target() == journal::NEWS {
        let level = journal::name(record.level()).to_owned();
        NEWS.tell(since_boot(), NewsItem { uptime: uptime(), level, text: shortened(text) });
    }
}

fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    if end == text.len() { text.to_owned() } else { format!("{}... (log show host)", &text[..end]) }
}

#[cfg(test)]
mod tests {
    use model::limits;

    use super::*;
    use crate::api::host::HostAnswer;

    fn item(level: &str, text: &str) -> NewsItem {
        NewsItem { uptime: "1.000".to_owned(), level: level.to_owned(), text: text.to_owned() }
    }

    fn info(text: &str) -> NewsItem {
        item(INFO, text)
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn a_console_is_told_what_happens_while_it_is_there_and_nothing_twice() {
        let news = News::none();
        news.tell(NOW, info("before it came"));
        let (last, nothing) = news.after_within(None, PATIENCE);
        assert_eq!(nothing, []);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| news.after_within(Some(last), PATIENCE));
            news.tell(NOW, info("one"));
            let (last, first) = waiting.join().expect("ended");
            assert_eq!(first, [info("one")]);
            news.tell(NOW, info("two"));
            news.tell(NOW, info("two"));
            let (last, more) = news.after_within(Some(last), PATIENCE);
            assert_eq!(more, [info("two"), info("two")], "a VM may end twice");
            assert_eq!(news.after_within(Some(last), Duration::ZERO), (last, Vec::new()));
        });
    }

    #[test]
    fn a_console_hears_what_a_restarted_control_plane_tells_first() {
        let (before, after) = (News::none(), News::none());
        let (none_yet, _) = before.after_within(None, PATIENCE);
        (0..3).for_each(|number| before.tell(NOW, info(&number.to_string())));
        let (seen, _) = before.after_within(Some(none_yet), PATIENCE);
        after.tell(NOW + Duration::from_secs(1), info("it came back"));
        assert_eq!(after.after_within(Some(seen), PATIENCE).1, [info("it came back")]);
        assert_eq!(after.after_within(Some(none_yet), PATIENCE).1, [info("it came back")]);
    }

    #[test]
    fn a_warning_that_comes_again_and_again_is_told_once_a_minute() {
        let news = News::none();
        (0..100).for_each(|second| news.tell(NOW + Duration::from_secs(second), item("warning", "it is full")));
        assert_eq!(news.after_within(Some(0), PATIENCE).1.len(), 2);
    }

    #[test]
    fn what_went_wrong_was_mended_and_goes_wrong_again_is_told_again() {
        let (news, lost, held) = (News::none(), item("error", "the host lease is lost"), info("it is held again"));
        [&lost, &lost, &held, &lost].into_iter().for_each(|item| news.tell(NOW, item.clone()));
        assert_eq!(news.after_within(Some(0), PATIENCE).1, [lost.clone(), held, lost]);
    }

    #[test]
    fn all_that_is_kept_fits_into_one_message_however_long_it_was() {
        let news = News::none();
        let long = shortened(&"\u{fffd}\"".repeat(60_000));
        (0..2 * KEPT).for_each(|number| news.tell(NOW, item("error", &format!("{number} {long}"))));
        let (last, items) = news.after_within(Some(0), PATIENCE);
        assert_eq!(items.len(), KEPT);
        let message = postcard::to_stdvec(&HostAnswer::News { last, items }).expect("written");
        assert!(message.len() < usize::try_from(limits::API_MESSAGE_BYTES_MAX).expect("small"), "{}", message.len());
    }
}
