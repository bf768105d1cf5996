//! The one way to wait for something: poll it, with a bound.

use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// Polls `probe` until it gives a value. After `bound` it is an error that names `waiting_for` and shows what `instead`
/// says was seen.
pub fn until<T>(
    waiting_for: &str,
    bound: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
    instead: impl FnOnce() -> String,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > bound {
            return Err(LabError::TimedOut { waiting_for: waiting_for.into(), after: bound, instead: instead() });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
