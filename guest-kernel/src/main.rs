//! The kernel: from the loader's hand-over to the loop that never ends.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a guest kernel: build it with --target x86_64-unknown-none");
    std::process::exit(2);
}
