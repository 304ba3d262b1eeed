//! Decodes arbitrary streams. What must hold is said by `oracle`, which the tests share.

#![no_main]

#[path = "../../tests/it/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::check_chosen_stream(input));
