//! How busy the processors of this host are.

/// Time of all processors together since the machine started, in ticks of the kernel's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    all: u64,
    idle: u64,
}

impl Times {
    /// The first line of /proc/stat (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal; what follows is
    /// contained in user. A guest's time is user, so vCPUs count.
    fn of(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        let (idle, waits) = (*ticks.get(3)?, ticks.get(4).copied().unwrap_or(0));
        Some(Self { all: ticks.iter().sum(), idle: idle + waits })
    }

    fn now() -> Option<Self> {
        Self::of(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The share of the time since `before` in which processors were busy, thousandths; none where no time passed.
    fn busy_permille(self, before: Self) -> Option<u16> {
        let all = self.all.checked_sub(before.all).filter(|ticks| *ticks > 0)?;
        // The kernel may count idle time back a little.
        let idle = self.idle.saturating_sub(before.idle).min(all);
        u16::try_from((all - idle) * 1000 / all).ok()
    }
}

/// Looks at the processors again and again.
#[derive(Debug)]
pub struct Load {
    last: Option<Times>,
}

impl Load {
    /// Begins to look.
    pub fn begin() -> Self {
        Self { last: Times::now() }
    }

    /// The share of the time since the last look in which the processors, all together, were busy: 0 to 1000. None where the
    /// kernel does not tell, or no time passed.
    pub fn busy_permille(&mut self) -> Option<u16> {
        let (before, now) = (self.last, Times::now());
        self.last = now;
        now?.busy_permille(before?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neither_idles_nor_waits_for_io_is_busy() {
        let before = Times::of("cpu  100 0 50 800 50 0 0 0 90 0\ncpu0 1 2 3\n").expect("understood");
        let now = Times::of("cpu  190 5 60 1000 80 3 2 10 170 0\n").expect("understood");
        // 350 ticks, of which 230 were idle or waiting; the guests' are user time already.
        assert_eq!(now.busy_permille(before), Some(342));
        assert_eq!(before.busy_permille(before), None);
        assert_eq!(Times { all: 10, idle: 4 }.busy_permille(Times { all: 0, idle: 5 }), Some(1000));
        assert_eq!(Times::of("cpu  1 2 3\n"), None);
        assert_eq!(Times::of(""), None);
    }

    #[test]
    fn this_machine_tells_how_busy_it_is() {
        let mut load = Load { last: Some(Times::default()) };
        assert!(load.busy_permille().is_some_and(|busy| busy <= 1000));
    }
}
