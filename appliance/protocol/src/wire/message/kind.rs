//! The numbers of the messages. A number is never given twice.

pub(super) const HELLO: u16 = 1;
pub(super) const OFFER: u16 = 2;
pub(super) const ANSWER: u16 = 3;
pub(super) const RESERVE: u16 = 4;
pub(super) const RESERVED: u16 = 5;
pub(super) const SWITCH_READY: u16 = 6;
pub(super) const ROUND_END: u16 = 7;
pub(super) const ROUND_STORED: u16 = 8;
pub(super) const STATE: u16 = 9;
pub(super) const HAND_OVER: u16 = 10;
pub(super) const STUN_CANCELLED: u16 = 11;
pub(super) const COMMITTED: u16 = 12;
pub(super) const RESUMED: u16 = 13;
pub(super) const NOT_RESUMED: u16 = 14;
pub(super) const AUDIT_HASHES: u16 = 15;
pub(super) const AUDIT_DONE: u16 = 16;
pub(super) const DONE: u16 = 17;
pub(super) const KEEPALIVE: u16 = 18;
pub(super) const CANCEL: u16 = 19;
pub(super) const ANNOUNCED: u16 = 20;
