//! DHCP for the management network (RFC 2131): the decisions ([`exchange`]), the frames around them ([`frame`]) and the
//! thread that carries them out ([`client`]).
//!
//! ```text
//!   Selecting --offer--> Requesting --ack--> Bound --T1--> Renewing --T2--> Rebinding --expiry--> Selecting
//!       ^                    | nak, silence      ^------------ack-----------------'                  |
//!       '--------------------'                                          (the address is given up) ---'
//! ```

pub mod client;
pub mod exchange;
mod frame;
