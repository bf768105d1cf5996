//! The first serial port: a 16550A at port 0x3f8, interrupt 4 (vm-superio).
//!
//! Input waits in a bounded queue of our own and goes into the UART's FIFO as the guest empties it.

use std::collections::VecDeque;
use std::io;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::output_ring::{OutputRing, RingState};
use crate::bus::BusDevice;
use crate::device::{Device, DeviceError};
use crate::state::{ChunkKind, StateError, decode, encode};

/// First port.
pub const PORT: u64 = 0x3f8;
/// Number of ports.
pub const PORTS: u64 = 8;
/// Interrupt.
pub const IRQ: u32 = 4;
/// Most bytes of input that wait for the guest.
pub const INPUT_BYTES_MAX: usize = 64 << 10;

const SUBJECT: &str = "serial";

/// Interrupt 4 by its irqfd.
#[derive(Debug)]
pub struct Edge(pub EventFd);

impl Trigger for Edge {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The port.
pub struct SerialPort {
    uart: Serial<Edge, NoEvents, OutputRing>,
    waiting: VecDeque<u8>,
}

#[derive(Serialize, Deserialize)]
struct State {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
    waiting: Vec<u8>,
    output: RingState,
}

impl SerialPort {
    /// A port that interrupts by `edge` and writes to `output`.
    pub fn new(edge: EventFd, output: OutputRing) -> Self {
        Self { uart: Serial::new(Edge(edge), output), waiting: VecDeque::new() }
    }

    /// What the guest wrote.
    pub fn output(&self) -> &OutputRing {
        self.uart.writer()
    }

    /// Types bytes into the guest. Gives how many were taken: what goes beyond [`INPUT_BYTES_MAX`] of waiting input is not.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(INPUT_BYTES_MAX - self.waiting.len());
        self.waiting.extend(&bytes[..taken]);
        self.refill();
        taken
    }

    fn refill(&mut self) {
        let room = self.uart.fifo_capacity().min(self.waiting.len());
        if room == 0 {
            return;
        }
        let (front, _) = self.waiting.make_contiguous().split_at(room);
        match self.uart.enqueue_raw_bytes(front) {
            Ok(taken) => drop(self.waiting.drain(..taken)),
            // The bytes are in the FIFO; only the interrupt failed, and the guest's next look at the line status finds them.
            Err(error) => {
                log::error!("serial input: {error}");
                self.waiting.drain(..room);
            }
        }
    }

    fn rebuild(&mut self, state: &SerialState) -> Result<(), StateError> {
        let edge = self.uart.interrupt_evt().0.try_clone();
        let edge = edge.map_err(|error| StateError::invalid(SUBJECT, error.to_string()))?;
        let output = self.uart.writer().clone();
        self.uart = Serial::from_state(state, Edge(edge), NoEvents, output)
            .map_err(|error| StateError::invalid(SUBJECT, error.to_string()))?;
        Ok(())
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = self.uart.read(offset as u8);
            self.refill();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [byte] = data
            && let Err(error) = self.uart.write(offset as u8, *byte)
        {
            log::error!("serial output: {error}");
        }
    }
}

impl Device for SerialPort {
    fn name(&self) -> String {
        SUBJECT.into()
    }

    fn chunk(&self) -> ChunkKind {
        ChunkKind::new(ChunkKind::SERIAL, 0, 1)
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.refill();
        Ok(())
    }

    fn reset(&mut self) {
        self.waiting.clear();
        if let Err(error) = self.rebuild(&SerialState::default()) {
            log::error!("serial reset: {error}");
        }
    }

    fn export_state(&self) -> Result<Vec<u8>, StateError> {
        let uart = self.uart.state();
        let state = State {
            baud_divisor_low: uart.baud_divisor_low,
            baud_divisor_high: uart.baud_divisor_high,
            interrupt_enable: uart.interrupt_enable,
            interrupt_identification: uart.interrupt_identification,
            line_control: uart.line_control,
            line_status: uart.line_status,
            modem_control: uart.modem_control,
            modem_status: uart.modem_status,
            scratch: uart.scratch,
            in_buffer: uart.in_buffer,
            waiting: self.waiting.iter().copied().collect(),
            output: self.output().export_state(),
        };
        encode(SUBJECT, &state)
    }

    fn import_state(&mut self, version: u16, bytes: &[u8]) -> Result<(), StateError> {
        self.chunk().check_version(version)?;
        let state: State = decode(SUBJECT, bytes)?;
        if state.waiting.len() > INPUT_BYTES_MAX {
            return Err(StateError::invalid(SUBJECT, "too much input is waiting"));
        }
        let uart = SerialState {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        };
        self.rebuild(&uart)?;
        if !self.output().import_state(state.output) {
            return Err(StateError::invalid(SUBJECT, "the output ring cannot be"));
        }
        self.waiting = state.waiting.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn port() -> SerialPort {
        SerialPort::new(EventFd::new(EFD_NONBLOCK).unwrap(), OutputRing::new().unwrap())
    }

    fn byte(port: &mut SerialPort, offset: u64) -> u8 {
        let mut data = [0xff];
        port.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn input_longer_than_the_fifo_reaches_the_guest_in_order() {
        let mut port = port();
        let text: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        assert_eq!(port.input(&text), 1000);
        let mut seen = Vec::new();
        while byte(&mut port, 5) & 1 != 0 {
            seen.push(byte(&mut port, 0));
        }
        assert_eq!(seen, text);
        assert_eq!(port.input(&vec![0; INPUT_BYTES_MAX * 2]), INPUT_BYTES_MAX);
    }

    #[test]
    fn a_port_goes_on_elsewhere_with_its_registers_its_input_and_its_output() {
        let mut port = port();
        port.write(3, &[0x83]);
        port.write(0, &[0x0c]);
        port.write(3, &[0x03]);
        port.write(7, &[0x5a]);
        for letter in b"out" {
            port.write(0, &[*letter]);
        }
        port.input(&[7; 100]);
        let state = port.export_state().unwrap();
        let mut other = self::port();
        other.import_state(1, &state).unwrap();
        assert_eq!(other.export_state().unwrap(), state);
        assert_eq!(byte(&mut other, 7), 0x5a);
        assert_eq!(other.output().read(0).bytes, b"out");
        assert_eq!((0..100).map(|_| byte(&mut other, 0)).collect::<Vec<_>>(), [7; 100]);
        assert!(matches!(other.import_state(2, &state), Err(StateError::Version { .. })));
        other.reset();
        assert_eq!(byte(&mut other, 7), 0);
    }

    proptest! {
        #[test]
        fn any_state_and_any_access_is_taken_or_refused_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            accesses in proptest::collection::vec((any::<bool>(), 0u64..8, 1usize..5, any::<u8>()), 0..50),
        ) {
            let mut port = port();
            let _ = port.import_state(1, &bytes);
            for (write, offset, length, value) in accesses {
                if write { port.write(offset, &vec![value; length]) } else { port.read(offset, &mut vec![0xff; length]) }
            }
            prop_assert!(port.export_state().is_ok());
        }
    }
}
