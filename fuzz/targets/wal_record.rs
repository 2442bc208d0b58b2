//! Fuzzes WAL records: decoding never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| steadfast::engine::embedded::fuzz_wal_record(data));
