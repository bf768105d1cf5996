//! The identity of this boot.

/// What Linux made up at this boot (random(4), /proc/sys/kernel/random/boot_id); 0 where it does not tell.
pub fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0)
}
