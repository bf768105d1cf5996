//! What both hosts agree on before they send: for each port group and each end a token that nobody can guess.

use std::fmt;

use model::names::PortGroupName;
use serde::{Deserialize, Serialize};

/// 16 random bytes: what an end says on one port group in one migration, and nothing else ever says.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub [u8; Token::BYTES]);

impl Token {
    /// Its length.
    pub const BYTES: usize = 16;
}

/// It stands in no log: who reads one before it was sent could fake it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where the VM runs.
    Source,
    /// Where it is to run.
    Destination,
}

/// A port group that is probed, with the tokens of both ends. The source makes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// Its label.
    pub label: PortGroupName,
    /// What the source sends.
    pub source: Token,
    /// What the destination sends.
    pub destination: Token,
}

impl Agreed {
    /// What this end sends.
    pub fn sent_by(&self, end: End) -> Token {
        match end {
            End::Source => self.source,
            End::Destination => self.destination,
        }
    }

    /// What this end waits for.
    pub fn awaited_by(&self, end: End) -> Token {
        match end {
            End::Source => self.destination,
            End::Destination => self.source,
        }
    }
}

#[cfg(test)]
pub(crate) mod example {
    use super::*;

    /// Port groups of these labels, with a token of its own for each end of each.
    pub(crate) fn agreed(labels: &[&str]) -> Vec<Agreed> {
        let token = |index: usize, end: u8| Token([u8::try_from(index).unwrap() * 2 + end + 1; Token::BYTES]);
        let agreed = labels.iter().enumerate().map(|(index, label)| Agreed {
            label: label.parse().unwrap(),
            source: token(index, 0),
            destination: token(index, 1),
        });
        agreed.collect()
    }
}
