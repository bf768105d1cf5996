//! What is asked and answered: 32 bytes, a datagram of UDP or a piece of a TCP stream.

/// Bytes of a message.
pub const MESSAGE_BYTES: usize = 32;

const MAGIC: u64 = u64::from_le_bytes(*b"witnessE");

/// A request, or its answer. All numbers are little-endian on the wire, after a magic number of 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The request's number, which its answer repeats; the first is 1.
    pub number: u64,
    /// How many requests the guest has answered over this protocol, with this one; 0 in a request.
    pub answered: u64,
    /// Microseconds since the guest's first instruction, by its TSC; 0 in a request.
    pub clock_us: u64,
}

impl Message {
    /// As it is sent.
    pub fn bytes(&self) -> [u8; MESSAGE_BYTES] {
        let words = [MAGIC, self.number, self.answered, self.clock_us];
        core::array::from_fn(|index| words[index / 8].to_le_bytes()[index % 8])
    }

    /// What was received; none if it is no message.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MESSAGE_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|index| bytes[at * 8 + index]));
        (word(0) == MAGIC).then(|| Self { number: word(1), answered: word(2), clock_us: word(3) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_sent_and_nothing_else_is() {
        let message = Message { number: 1, answered: u64::MAX, clock_us: 3 };
        let bytes = message.bytes();
        assert_eq!(Message::read(&bytes), Some(message));
        assert_eq!(Message::read(&bytes[1..]), None);
        assert_eq!(Message::read(&[0; MESSAGE_BYTES]), None);
    }
}
