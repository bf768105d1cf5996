//! What happens on this host by itself: consoles show it to whoever sits there, because nobody asks about what he does not
//! know of.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use log::{Level, Record};

use crate::api::host::NewsItem;
use crate::journal::{self, uptime};

/// Items that are kept for a console that is busy.
const KEPT: usize = 200;
/// How long a console waits for news before it is told that there are none.
const PATIENCE: Duration = Duration::from_secs(30);

/// The news of this process.
pub static NEWS: News = News::none();

/// The last things that happened, numbered from 1.
#[derive(Debug)]
pub struct News {
    told: Mutex<Told>,
    came: Condvar,
}

#[derive(Debug)]
struct Told {
    /// The number of the last item.
    last: u64,
    items: VecDeque<NewsItem>,
}

impl News {
    const fn none() -> Self {
        Self { told: Mutex::new(Told { last: 0, items: VecDeque::new() }), came: Condvar::new() }
    }

    fn tell(&self, item: NewsItem) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.last += 1;
        told.items.push_back(item);
        if told.items.len() > KEPT {
            told.items.pop_front();
        }
        self.came.notify_all();
    }

    /// What came after item number `after`, as far as it is kept, and the number of the last item; waits some time for the
    /// first. Who has no number yet, or one of a control plane before this one, is given one at once, and nothing of the past.
    pub fn after(&self, after: Option<u64>) -> (u64, Vec<NewsItem>) {
        self.after_within(after, PATIENCE)
    }

    fn after_within(&self, after: Option<u64>, patience: Duration) -> (u64, Vec<NewsItem>) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(after) = after.filter(|after| *after <= told.last) else { return (told.last, Vec::new()) };
        let waited = self.came.wait_timeout_while(told, patience, |told| told.last == after);
        let (told, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let new = usize::try_from(told.last - after).unwrap_or(usize::MAX).min(told.items.len());
        (told.last, told.items.iter().skip(told.items.len() - new).cloned().collect())
    }
}

/// What the journal of this process is told: a warning, an error, or what is marked as news, is news.
pub fn hear(record: &Record<'_>, text: &str) {
    if record.level() <= Level::Warn || record.target() == journal::NEWS {
        NEWS.tell(NewsItem {
            uptime: uptime(),
            level: journal::name(record.level()).to_owned(),
            text: text.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str) -> NewsItem {
        NewsItem { uptime: "1.000".to_owned(), level: "error".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_console_is_told_what_happens_while_it_is_there_and_nothing_twice() {
        let news = News::none();
        news.tell(item("before it came"));
        let (last, nothing) = news.after_within(None, PATIENCE);
        assert_eq!(nothing, []);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| news.after_within(Some(last), PATIENCE));
            news.tell(item("one"));
            let (last, first) = waiting.join().expect("ended");
            assert_eq!(first, [item("one")]);
            news.tell(item("two"));
            news.tell(item("three"));
            let (last, more) = news.after_within(Some(last), PATIENCE);
            assert_eq!(more, [item("two"), item("three")]);
            assert_eq!(news.after_within(Some(last), Duration::ZERO), (last, Vec::new()));
        });
    }

    #[test]
    fn a_number_of_an_earlier_control_plane_is_replaced_and_what_is_kept_is_bounded() {
        let news = News::none();
        assert_eq!(news.after_within(Some(7), PATIENCE), (0, Vec::new()));
        (0..2 * KEPT).for_each(|number| news.tell(item(&number.to_string())));
        let (last, kept) = news.after_within(Some(0), PATIENCE);
        assert_eq!((last, kept.len()), (2 * KEPT as u64, KEPT));
        assert_eq!(kept.last(), Some(&item(&(2 * KEPT - 1).to_string())));
    }
}
