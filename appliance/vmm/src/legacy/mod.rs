//! What a PC has at fixed ports: the serial port ([`serial`], which writes to an [`output_ring`]), the clock with its CMOS
//! memory ([`rtc`]), and the ways to reset ([`reset_control`]).

pub mod output_ring;
pub mod reset_control;
pub mod rtc;
pub mod serial;
