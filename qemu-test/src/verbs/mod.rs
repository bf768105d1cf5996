//! What a person can ask of the lab: one file a verb, one line each in `command_line`.

mod bench;
mod command_line;
mod console;
mod database;
mod demo;
mod down;
mod exec;
mod fault;
mod fuzz;
mod image;
mod inside;
mod losses;
mod moves;
mod older;
mod sim;
mod status;
mod test;
mod up;

pub use command_line::CommandLine;
