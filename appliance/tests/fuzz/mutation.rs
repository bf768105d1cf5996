//! Changes of real inputs, each decided by a seed: bits, bytes, integers at their ends, lengths, pieces cut out, doubled, taken from elsewhere.

use sim::rng::Rng;

/// An input does not grow beyond this, in bytes.
const INPUT_BYTES_MAX: usize = 256 << 10;
/// What texts are made of that readers of TOML and of sizes look at twice.
const WORDS: [&str; 24] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'''",
    "=",
    ".",
    ",",
    "\n",
    "[[",
    "#",
    "-1",
    "9223372036854775808",
    "18446744073709551615",
    "1e999",
    "0x",
    "\u{0}",
    "\u{fe0f}é",
    " MiB",
    "true",
    "nan",
    "..",
    "/",
];

/// The changes of one seed.
pub(crate) struct Mutation {
    rng: Rng,
    text: bool,
}

impl Mutation {
    /// For inputs that are text, or bytes.
    pub(crate) fn new(seed: u64, text: bool) -> Self {
        Self { rng: Rng::new(seed), text }
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.rng.below(times) == 0
    }

    /// A place in a list of so many.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.rng.index(len)
    }

    /// One of these inputs, changed once or several times.
    pub(crate) fn of(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.rng.index(inputs.len())].clone();
        // Mostly few changes: what is changed everywhere is refused at its beginning.
        let changes = 1 << self.rng.below(5);
        for _ in 0..1 + self.rng.below(changes) {
            let other = &inputs[self.rng.index(inputs.len())];
            self.change(&mut input, other);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        if self.text && self.rng.chance(500_000) {
            return self.word(input);
        }
        let at = self.rng.index(input.len());
        match self.rng.below(12) {
            0 | 1 => self.at(input, at, |rng, byte| byte ^ 1 << rng.below(8)),
            2 => self.at(input, at, |rng, _| rng.next_u64() as u8),
            3 => self.at(input, at, |rng, _| [0, 1, 0x7f, 0x80, 0xfe, 0xff][rng.index(6)]),
            4 | 5 => self.integer(input, at),
            6 => self.varint(input, at),
            7 => input.truncate(at),
            8 => {
                let (from, to) = self.range(input.len());
                let piece = input[from..to].to_vec();
                input.splice(at..at, piece);
            }
            9 => {
                let (from, to) = self.range(input.len());
                input.drain(from..to);
            }
            10 => {
                let (from, to) = self.range(other.len());
                let end = (at + to - from).min(input.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                input.truncate(at);
                input.extend_from_slice(&other[self.rng.index(other.len())..]);
            }
        }
    }

    fn at(&mut self, input: &mut [u8], at: usize, change: impl Fn(&mut Rng, u8) -> u8) {
        if let Some(byte) = input.get_mut(at) {
            *byte = change(&mut self.rng, *byte);
        }
    }

    /// A stretch, mostly short.
    fn range(&mut self, len: usize) -> (usize, usize) {
        let from = self.rng.index(len);
        let most = (len - from).min(1 << self.rng.below(13));
        (from, from + self.rng.index(most + 1))
    }

    /// An integer of 2, 4, 8 or 16 bytes, at an end of its range, at a power of two, about the length of the input, or a little more or less than it was.
    fn integer(&mut self, input: &mut [u8], at: usize) {
        let bytes = [2, 4, 8, 16][self.rng.index(4)];
        let at = if self.rng.chance(500_000) { at / bytes * bytes } else { at };
        let length = input.len() as u128;
        let Some(field) = input.get_mut(at..at + bytes) else { return };
        let mut wide = [0; 16];
        wide[..bytes].copy_from_slice(field);
        let now = u128::from_le_bytes(wide);
        let near = |rng: &mut Rng| u128::from(rng.below(5)).wrapping_sub(2);
        let new = match self.rng.below(6) {
            0 => near(&mut self.rng),
            1 => (u128::MAX >> (128 - 8 * bytes) >> 1).wrapping_add(near(&mut self.rng)),
            2 => 1 << self.rng.below(8 * bytes as u64),
            3 => length.wrapping_add(near(&mut self.rng)),
            4 => now.wrapping_add(near(&mut self.rng)),
            _ => now.wrapping_neg(),
        };
        field.copy_from_slice(&new.to_le_bytes()[..bytes]);
        if self.rng.chance(200_000) {
            field.reverse();
        }
    }

    /// A variable-length integer (postcard, LEB128) as long as can be.
    fn varint(&mut self, input: &mut Vec<u8>, at: usize) {
        let bytes = 1 + self.rng.index(10);
        let mut long = vec![0xff; bytes];
        long.push([0, 1, 0x7f][self.rng.index(3)]);
        let end = (at + 1).min(input.len());
        input.splice(at..end, long);
    }

    fn word(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.index(input.len() + 1);
        let word = WORDS[self.rng.index(WORDS.len())];
        let times = if self.rng.chance(20_000) { 1 << self.rng.below(13) } else { 1 };
        input.splice(at..at, word.repeat(times).into_bytes());
    }
}
