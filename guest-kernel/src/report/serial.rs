//! The 16550 at 0x3f8, without waiting: a byte costs an exit of tens of microseconds, which would show as a gap.
//! Source: National Semiconductor, PC16550D, section 8.

use heapless::Deque;

use crate::ring0::port;

const DATA: u16 = 0x3f8;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const LINE_STATUS: u16 = DATA + 5;

const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes that the transmitter's FIFO takes once it is empty.
const FIFO_BYTES: usize = 16;
/// Bytes that wait.
const QUEUE_BYTES: usize = 16 * 1024;

/// The serial line. There is one.
pub struct Serial {
    queue: Deque<u8, QUEUE_BYTES>,
    lost_lines: u64,
}

impl Serial {
    /// A line that was not set up yet.
    pub const fn new() -> Self {
        Self { queue: Deque::new(), lost_lines: 0 }
    }

    /// Sets the UART up: 8 bits, no parity, FIFOs on, no interrupts.
    pub fn start(&mut self) {
        // SAFETY: registers of a UART.
        unsafe {
            port::write_byte(DATA + 1, 0);
            port::write_byte(LINE_CONTROL, 3);
            port::write_byte(FIFO_CONTROL, 7);
        }
    }

    /// Puts a line in the queue; dropped and counted if it does not fit.
    pub fn put(&mut self, line: &str) {
        if self.queue.len() + line.len() > QUEUE_BYTES {
            self.lost_lines += 1;
            return;
        }
        for byte in line.bytes() {
            // There is room.
            let _ = self.queue.push_back(byte);
        }
    }

    /// Lines that were dropped.
    pub fn lost_lines(&self) -> u64 {
        self.lost_lines
    }

    /// True if nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends what the transmitter takes now, 16 bytes at most; `between` is called after each exit that this takes.
    pub fn send(&mut self, mut between: impl FnMut()) {
        // SAFETY: a register of the UART.
        if self.queue.is_empty() || unsafe { port::read_byte(LINE_STATUS) } & TRANSMITTER_EMPTY == 0 {
            return;
        }
        between();
        for _ in 0..FIFO_BYTES {
            let Some(byte) = self.queue.pop_front() else { return };
            // SAFETY: the UART's data register.
            unsafe { port::write_byte(DATA, byte) };
            between();
        }
    }

    /// Sends everything that waits, for as long as it takes.
    pub fn flush(&mut self) {
        while !self.is_empty() {
            self.send(|| ());
        }
    }

    /// A byte that came in.
    pub fn receive(&mut self) -> Option<u8> {
        // SAFETY: registers of the UART.
        unsafe { (port::read_byte(LINE_STATUS) & DATA_READY != 0).then(|| port::read_byte(DATA)) }
    }
}

impl Default for Serial {
    fn default() -> Self {
        Self::new()
    }
}
