//! What a person can ask of the lab: one file a verb, one line each in `command_line`.

mod command_line;
mod image;

pub use command_line::CommandLine;
