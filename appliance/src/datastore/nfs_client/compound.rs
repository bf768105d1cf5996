//! The calls by which a client is asked for, restarted and ended, and what a server answers: ONC RPC (RFC 5531) in records over TCP (section
//! 11), COMPOUND with one operation each (RFC 8881, 16.2), in XDR (RFC 4506). Without I/O.

use bytes::{Buf as _, BufMut as _};

/// Program and version of NFS, and its procedure COMPOUND.
const PROCEDURE: [u32; 3] = [100_003, 4, 1];
/// The last fragment of a record.
const LAST: u32 = 1 << 31;
/// What a Linux client says of itself: EXCHGID4_FLAG_SUPP_MOVED_REFER, EXCHGID4_FLAG_BIND_PRINC_STATEID.
const FLAGS: u32 = 0x0000_0001 | 0x0000_0100;
/// Only an update of a client that the server knows is meant: EXCHGID4_FLAG_UPD_CONFIRMED_REC_A.
const UPDATE: u32 = 0x4000_0000;
/// The longest answer that is read, bytes: the server's scope and owner are of at most 1024 each.
pub const ANSWER_MAX: usize = 16 << 10;

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// Asks for the client of this owner, and changes nothing: EXCHANGE_ID as the update of a known client (RFC 8881, 18.35.4, cases 6
    /// to 9) by one who is not that client. [`CallError::NO_CLIENT`] and [`CallError::OTHER_CLIENT`] tell.
    AskFor {
        /// Its owner string.
        owner: &'a str,
        /// None that the client ever had.
        verifier: [u8; 8],
    },
    /// Introduces the client of this owner, restarted: EXCHANGE_ID.
    Introduce {
        /// Its owner string.
        owner: &'a str,
        /// Another for each restart.
        verifier: [u8; 8],
    },
    /// Confirms it, by which all that the server kept for its earlier lives ends: CREATE_SESSION.
    Confirm(Client),
    /// Ends its session: DESTROY_SESSION.
    EndSession([u8; 16]),
    /// Ends the client: DESTROY_CLIENTID.
    EndClient(Client),
}

/// A client as the server calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    id: u64,
    /// The number of its next CREATE_SESSION.
    sequence: u32,
}

/// What a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Call::Introduce`], and to [`Call::AskFor`] by who is that client.
    Introduced(Client),
    /// To [`Call::Confirm`]: the session.
    Confirmed([u8; 16]),
    /// To the others.
    Ended,
}

/// Why a call had no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The server refuses, with this status of NFS (RFC 8881, 15.1).
    #[error("the server answers NFS status {0}")]
    Status(u32),
    /// The server does not take the call itself: no such program or version, or not from this host.
    #[error("the server does not take the call")]
    Refused,
    /// It is no answer to this call.
    #[error("the server's answer cannot be understood")]
    Malformed,
}

impl CallError {
    /// The server does not speak this minor version, and so has no client that does.
    pub const OTHER_VERSION: Self = Self::Status(10_021);
    /// The server is not done with something, and is to be asked again.
    pub const DELAY: Self = Self::Status(10_008);
    /// It has no such client.
    pub const NO_CLIENT: Self = Self::Status(2);
    /// It has such a client, and that came with another verifier.
    pub const OTHER_CLIENT: Self = Self::Status(10_027);
}

impl Call<'_> {
    fn operation(&self) -> u32 {
        match self {
            Self::AskFor { .. } | Self::Introduce { .. } => 42,
            Self::Confirm(_) => 43,
            Self::EndSession(_) => 44,
            Self::EndClient(_) => 57,
        }
    }

    /// The record that asks this of the minor version `minor`, as root of the machine `host`; `xid` names the call.
    pub fn record(&self, xid: u32, minor: u32, host: &str) -> Vec<u8> {
        let mut body = Vec::new();
        // A call of RPC version 2.
        [xid, 0, 2].into_iter().chain(PROCEDURE).for_each(|word| body.put_u32(word));
        // AUTH_SYS (RFC 5531, appendix A): stamp, machine, user, group, no further groups. A server lets only the same user end what
        // a client has.
        let mut credential = Vec::new();
        credential.put_u32(0);
        put_opaque(&mut credential, host.as_bytes());
        [0, 0, 0].into_iter().for_each(|word| credential.put_u32(word));
        body.put_u32(1);
        put_opaque(&mut body, &credential);
        // No verifier; no tag.
        [0, 0, 0, minor, 1, self.operation()].into_iter().for_each(|word| body.put_u32(word));
        self.put_arguments(&mut body);
        let mut record = Vec::new();
        record.put_u32(LAST | body.len() as u32);
        record.extend(body);
        record
    }

    fn put_arguments(&self, body: &mut Vec<u8>) {
        match self {
            Self::AskFor { owner, verifier } => put_client(body, owner, *verifier, FLAGS | UPDATE),
            Self::Introduce { owner, verifier } => put_client(body, owner, *verifier, FLAGS),
            Self::Confirm(Client { id, sequence }) => {
                body.put_u64(*id);
                [*sequence, 0].into_iter().for_each(|word| body.put_u32(word));
                // For each direction: padding, longest call, answer and kept answer, operations, calls at once, no RDMA. Servers
                // refuse what is too small for any call.
                for bytes in [65_536, 4096] {
                    [0, bytes, bytes, 4096, 8, 4, 0].into_iter().for_each(|word| body.put_u32(word));
                }
                // Calls back to a program that nobody serves, without credentials.
                [0x4000_0000, 1, 0].into_iter().for_each(|word| body.put_u32(word));
            }
            Self::EndSession(session) => body.extend(session),
            Self::EndClient(Client { id, .. }) => body.put_u64(*id),
        }
    }

    /// What the server answered to this call, by the record that followed the mark of `body`.
    ///
    /// # Errors
    /// It refuses, or that is no answer to this call.
    pub fn answer(&self, xid: u32, mut body: &[u8]) -> Result<Answer, CallError> {
        let body = &mut body;
        // An answer to this call that was accepted (RFC 5531, section 9).
        if (word(body)?, word(body)?) != (xid, 1) {
            return Err(CallError::Malformed);
        }
        if word(body)? != 0 {
            return Err(CallError::Refused);
        }
        word(body)?;
        opaque(body)?;
        if word(body)? != 0 {
            return Err(CallError::Refused);
        }
        let status = word(body)?;
        opaque(body)?;
        let operations = word(body)?;
        if status != 0 {
            return Err(CallError::Status(status));
        }
        if (operations, word(body)?, word(body)?) != (1, self.operation(), 0) {
            return Err(CallError::Malformed);
        }
        match self {
            Self::AskFor { .. } | Self::Introduce { .. } => {
                let id = u64::from(word(body)?) << 32 | u64::from(word(body)?);
                Ok(Answer::Introduced(Client { id, sequence: word(body)? }))
            }
            Self::Confirm(_) => {
                let session = body.first_chunk().ok_or(CallError::Malformed)?;
                Ok(Answer::Confirmed(*session))
            }
            Self::EndSession(_) | Self::EndClient(_) => Ok(Answer::Ended),
        }
    }
}

/// The length of a record's only fragment, by its mark.
///
/// # Errors
/// It is longer than any answer, or there are more fragments.
pub fn length(mark: [u8; 4]) -> Result<usize, CallError> {
    let mark = u32::from_be_bytes(mark);
    let bytes = (mark & !LAST) as usize;
    if mark & LAST == 0 || bytes > ANSWER_MAX { Err(CallError::Malformed) } else { Ok(bytes) }
}

fn put_client(to: &mut Vec<u8>, owner: &str, verifier: [u8; 8], flags: u32) {
    to.extend(verifier);
    put_opaque(to, owner.as_bytes());
    // No protection of its state (SP4_NONE), nothing of the implementation.
    [flags, 0, 0].into_iter().for_each(|word| to.put_u32(word));
}

fn put_opaque(to: &mut Vec<u8>, bytes: &[u8]) {
    to.put_u32(bytes.len() as u32);
    to.extend(bytes);
    to.put_bytes(0, padding(bytes.len()));
}

/// Bytes that fill an opaque value up to a word.
fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(4) - bytes
}

fn word(from: &mut &[u8]) -> Result<u32, CallError> {
    from.try_get_u32().map_err(|_| CallError::Malformed)
}

fn opaque(from: &mut &[u8]) -> Result<(), CallError> {
    let bytes = word(from)? as usize;
    let whole = bytes.saturating_add(padding(bytes.min(ANSWER_MAX)));
    *from = from.get(whole..).ok_or(CallError::Malformed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: Client = Client { id: 0x0102_0304_0506_0708, sequence: 9 };

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// An answer with these words after the status of NFS, which stands twice.
    fn answered(status: u32, operation: u32, result: &[u32]) -> Vec<u8> {
        let accepted = [7, 1, 0, 0, 0, 0];
        words(&[accepted.as_slice(), &[status, 0, 1, operation, status], result].concat())
    }

    #[test]
    fn a_client_is_introduced_as_root_of_its_machine_with_its_owner_string_and_a_verifier() {
        let record = Call::Introduce { owner: "ab", verifier: [1; 8] }.record(7, 2, "host-a");
        let call = [7, 0, 2, 100_003, 4, 1];
        let credential = [1, 28, 0, 6, u32::from_be_bytes(*b"host"), u32::from_be_bytes(*b"-a\0\0"), 0, 0, 0];
        let compound = [0, 0, 0, 2, 1, 42];
        let arguments = [0x0101_0101, 0x0101_0101, 2, u32::from_be_bytes(*b"ab\0\0"), 0x101, 0, 0];
        let body = words(&[call.as_slice(), &credential, &compound, &arguments].concat());
        let marked = [words(&[LAST | body.len() as u32]), body].concat();
        assert_eq!(record, marked);
    }

    #[test]
    fn who_asks_for_a_client_means_only_one_that_the_server_knows() {
        let record = Call::AskFor { owner: "ab", verifier: [1; 8] }.record(7, 2, "host-a");
        let asked = words(&[42, 0x0101_0101, 0x0101_0101, 2, u32::from_be_bytes(*b"ab\0\0"), 0x4000_0101, 0, 0]);
        assert!(record.ends_with(&asked), "{record:?}");
        let ask = Call::AskFor { owner: "ab", verifier: [1; 8] };
        assert_eq!(ask.answer(7, &answered(2, 42, &[])), Err(CallError::NO_CLIENT));
        assert_eq!(ask.answer(7, &answered(10_027, 42, &[])), Err(CallError::OTHER_CLIENT));
    }

    #[test]
    fn a_client_is_confirmed_with_channels_that_carry_a_call_and_ended_by_its_names() {
        let call = [7, 0, 2, 100_003, 4, 1, 1, 24, 0, 1, u32::from_be_bytes(*b"h\0\0\0"), 0, 0, 0, 0, 0, 0, 1, 1];
        let arguments = |call_of: Call<'_>| {
            let record = call_of.record(7, 1, "h");
            let (head, rest) = record[4..].split_at(4 * call.len());
            assert_eq!(head, words(&call));
            rest.to_vec()
        };
        let fore = [0, 65_536, 65_536, 4096, 8, 4, 0];
        let back = [0, 4096, 4096, 4096, 8, 4, 0];
        let confirm = [&[43, 0x0102_0304, 0x0506_0708, 9, 0], fore.as_slice(), &back, &[0x4000_0000, 1, 0]].concat();
        assert_eq!(arguments(Call::Confirm(CLIENT)), words(&confirm));
        let session = words(&[1, 2, 3, 4]).try_into().expect("16 bytes");
        assert_eq!(arguments(Call::EndSession(session)), words(&[44, 1, 2, 3, 4]));
        assert_eq!(arguments(Call::EndClient(CLIENT)), words(&[57, 0x0102_0304, 0x0506_0708]));
    }

    #[test]
    fn the_answers_of_a_server_are_understood() {
        let introduce = Call::Introduce { owner: "ab", verifier: [1; 8] };
        let introduced = answered(0, 42, &[0x0102_0304, 0x0506_0708, 9, 0x101, 0]);
        assert_eq!(introduce.answer(7, &introduced), Ok(Answer::Introduced(CLIENT)));
        let session = words(&[1, 2, 3, 4]).try_into().expect("16 bytes");
        let confirmed = answered(0, 43, &[1, 2, 3, 4, 9, 0]);
        assert_eq!(Call::Confirm(CLIENT).answer(7, &confirmed), Ok(Answer::Confirmed(session)));
        assert_eq!(Call::EndClient(CLIENT).answer(7, &answered(0, 57, &[])), Ok(Answer::Ended));
    }

    #[test]
    fn what_a_server_refuses_is_told_from_what_is_no_answer() {
        let call = Call::EndClient(CLIENT);
        assert_eq!(call.answer(7, &answered(10_008, 57, &[])), Err(CallError::DELAY));
        // A minor version that it does not speak: no operation is answered.
        assert_eq!(call.answer(7, &words(&[7, 1, 0, 0, 0, 0, 10_021, 0, 0])), Err(CallError::OTHER_VERSION));
        // No such program; and a call that was denied.
        assert_eq!(call.answer(7, &words(&[7, 1, 0, 0, 0, 1])), Err(CallError::Refused));
        assert_eq!(call.answer(7, &words(&[7, 1, 1, 1, 1])), Err(CallError::Refused));
        assert_eq!(call.answer(8, &answered(0, 57, &[])), Err(CallError::Malformed), "another call's");
        assert_eq!(call.answer(7, &answered(0, 44, &[])), Err(CallError::Malformed), "another operation's");
        assert_eq!(length([0x80, 0, 1, 0]), Ok(256));
        for mark in [[0, 0, 1, 0], [0xff; 4]] {
            assert_eq!(length(mark), Err(CallError::Malformed));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_server_bring_a_host_down(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..64) {
            for call in [Call::Introduce { owner: "ab", verifier: [1; 8] }, Call::Confirm(CLIENT), Call::EndClient(CLIENT)] {
                let _ = call.answer(7, &[words(&[7, 1]), bytes.clone()].concat());
                let good = answered(0, call.operation(), &[1, 2, 3, 4]);
                let _ = call.answer(7, &good[..cut.min(good.len())]);
            }
        }
    }
}
