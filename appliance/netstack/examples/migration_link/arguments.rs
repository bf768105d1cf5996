//! The words of the command line.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// What the wire that delays and loses is asked for when nothing is said: round trips in ms, and loss in per cent each way.
const ROUND_TRIPS_MS: [f64; 3] = [0.2, 10.0, 75.0];
const LOSSES_PERCENT: [f64; 3] = [0.0, 0.1, 1.0];

/// What is measured.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// How long each transfer goes on.
    pub(crate) time: Duration,
    /// How often each is measured.
    pub(crate) repeat: u64,
    /// How many stuns.
    pub(crate) stuns: usize,
    /// An object a line instead of a table.
    pub(crate) json: bool,
    /// Not the veth but the wire that delays and loses.
    pub(crate) carried: Option<CarriedWire>,
}

/// Over what wires that delay and lose.
#[derive(Debug)]
pub(crate) struct CarriedWire {
    /// Rate of the line.
    pub(crate) bits_a_second: u64,
    /// Bytes of an IP packet.
    pub(crate) mtu: u16,
    /// Round trips.
    pub(crate) round_trips: Vec<Duration>,
    /// Of a million frames in each direction, how many are lost.
    pub(crate) losses_ppm: Vec<u32>,
}

impl Arguments {
    /// Understands the words; what makes no sense ends the program with a panic that names it.
    pub(crate) fn read(words: &[String]) -> Self {
        let has = |name: &str| words.iter().any(|word| word == name);
        let carried = ["--wire", "--loss", "--rtt", "--gbits"].into_iter().any(has);
        let gbits = number(words, "--gbits", 1.0);
        let round_trips = all(words, "--rtt", &ROUND_TRIPS_MS);
        let losses = all(words, "--loss", &LOSSES_PERCENT);
        assert!(gbits > 0.0 && round_trips.iter().all(|ms| *ms >= 0.0), "--gbits and --rtt are not negative");
        assert!(losses.iter().all(|percent| (0.0..=100.0).contains(percent)), "--loss is of a hundred");
        Self {
            time: Duration::from_secs(number(words, "--seconds", if carried { 10 } else { 3 })),
            repeat: number(words, "--repeat", 3),
            stuns: number(words, "--stuns", 300),
            json: has("--json"),
            carried: carried.then(|| CarriedWire {
                bits_a_second: (gbits * 1e9) as u64,
                mtu: number(words, "--mtu", 1500),
                round_trips: round_trips.into_iter().map(|ms| Duration::from_secs_f64(ms / 1e3)).collect(),
                losses_ppm: losses.into_iter().map(|percent| (percent * 1e4).round() as u32).collect(),
            }),
        }
    }
}

fn number<T: FromStr + Copy + Display>(words: &[String], name: &str, default: T) -> T {
    match words.iter().skip_while(|word| *word != name).nth(1) {
        Some(text) => text.parse().unwrap_or_else(|_| panic!("{name} {text}: a number is needed")),
        None => default,
    }
}

/// Every number that follows a word, where it stands once or more.
fn all(words: &[String], name: &str, default: &[f64]) -> Vec<f64> {
    let places = words.iter().enumerate().filter(|(_, word)| *word == name).map(|(at, _)| at);
    let given: Vec<f64> = places.map(|at| number(&words[at..], name, f64::NAN)).collect();
    if given.is_empty() { default.to_vec() } else { given }
}
