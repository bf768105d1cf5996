//! What a machine tells its owner: that the guest wants to be off or reset, or that it cannot go on.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::enter;

/// An end of the guest's run. The vCPUs stop by themselves when it is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest switched itself off (ACPI S5).
    Shutdown,
    /// The guest asked to be reset (keyboard controller, chipset, ACPI).
    Reset,
    /// A fault while a double fault was delivered: on a PC, a reset that nobody asked for.
    TripleFault,
    /// KVM cannot run it any further. The words are for the operator and hold what KVM gives: the cause, the instruction
    /// pointer, the instruction's bytes.
    Failed(String),
}

/// Something that must stop when an event is posted.
pub(crate) trait StopOnEvent: Send + Sync {
    /// Asks to stop, without waiting for it.
    fn request_stop(&self);
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// The one that ended the guest's run, taken or not.
    end: Option<Event>,
    listeners: Vec<Weak<dyn StopOnEvent>>,
}

struct Inner {
    queue: Mutex<Queue>,
    ended: AtomicBool,
    event: EventFd,
}

/// Where events are posted and taken. Clones share it.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

impl Events {
    /// Nothing has happened yet.
    ///
    /// # Errors
    /// If there is no event descriptor to be had.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { queue: Mutex::default(), ended: AtomicBool::new(false), event }) })
    }

    /// Becomes readable when there is an event. Whoever waits reads it and then calls [`Self::take`] until `None`.
    pub fn event(&self) -> &EventFd {
        &self.inner.event
    }

    /// The oldest event that was not taken.
    pub fn take(&self) -> Option<Event> {
        enter(&self.inner.queue).events.pop_front()
    }

    /// Whether an event was posted since the machine was built or reset: the guest does not run any more.
    pub fn ended(&self) -> bool {
        self.inner.ended.load(Ordering::Acquire)
    }

    /// What ended the guest's run, since the machine was built or reset; it stays when it is taken.
    pub fn end(&self) -> Option<Event> {
        enter(&self.inner.queue).end.clone()
    }

    pub(crate) fn listen(&self, listener: Weak<dyn StopOnEvent>) {
        enter(&self.inner.queue).listeners.push(listener);
    }

    /// Posts an event. Only the first since the last reset counts: what other vCPUs do until they stop is nothing new.
    pub(crate) fn post(&self, event: Event) {
        let listeners: Vec<_> = {
            let mut queue = enter(&self.inner.queue);
            if self.inner.ended.swap(true, Ordering::AcqRel) {
                return;
            }
            queue.end = Some(event.clone());
            queue.events.push_back(event);
            queue.listeners.iter().filter_map(Weak::upgrade).collect()
        };
        listeners.iter().for_each(|listener| listener.request_stop());
        // The counter cannot be full after one write an event.
        let _ = self.inner.event.write(1);
    }

    pub(crate) fn reset(&self) {
        let mut queue = enter(&self.inner.queue);
        queue.events.clear();
        queue.end = None;
        drop(queue);
        self.inner.ended.store(false, Ordering::Release);
        let _ = self.inner.event.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_event_of_a_run_counts() {
        let events = Events::new().unwrap();
        assert!(!events.ended());
        events.post(Event::Reset);
        events.post(Event::TripleFault);
        assert!(events.ended());
        assert_eq!(events.event().read().unwrap(), 1);
        assert_eq!(events.take(), Some(Event::Reset));
        assert_eq!(events.take(), None);
        assert_eq!(events.end(), Some(Event::Reset), "that it was taken does not change it");
        events.reset();
        assert_eq!(events.end(), None);
        events.post(Event::Shutdown);
        assert_eq!(events.take(), Some(Event::Shutdown));
    }
}
