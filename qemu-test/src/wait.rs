//! The one way to wait for something: look again and again, with a bound.

use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// What a look found, or what it saw instead of what is waited for.
pub type Found<T> = std::result::Result<T, String>;

/// Looks until what is waited for is there, and gives it. After `bound` it is an error that names `waiting_for` and shows
/// what was seen last instead.
pub fn until<T>(waiting_for: &str, bound: Duration, mut look: impl FnMut() -> Result<Found<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let instead = match look()? {
            Ok(found) => return Ok(found),
            Err(instead) => instead,
        };
        if start.elapsed() > bound {
            return Err(LabError::TimedOut { waiting_for: waiting_for.into(), after: bound, instead });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
