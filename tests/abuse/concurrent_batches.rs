//! Tests of batches with long lines and a limit on the bytes in flight.

use crate::{MIB, Target};

fn line(key: &str, value_bytes: usize) -> String {
    // `AAAA` is the base64 encoding of three zero bytes.
    let value = "AAAA".repeat(value_bytes / 3);
    format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n")
}

#[test]
fn a_long_batch_line_is_accepted_with_a_small_in_flight_limit() {
    let target = Target::new(&["--max-in-flight", "16777216"]);
    let batch = format!("PUT /resources/stores/kv/{}/batch", target.store);
    let body = line("a", 6_000_000) + &line("b", 3) + &line("c", 3_000_000);
    assert_eq!(target.request(&batch, &[], body.as_bytes()).status, 200);
    assert_eq!(target.get(&target.item("a")).body.len(), 6_000_000);
    target.assert_healthy_and_stop();
}

#[test]
fn concurrent_batches_with_long_lines_stay_within_the_memory_limit() {
    let target = Target::new(&["--max-in-flight", "67108864"]);
    std::thread::scope(|scope| {
        for n in 0..24 {
            let target = &target;
            scope.spawn(move || {
                let batch = format!("PUT /resources/stores/kv/{}/batch", target.store);
                let body = line(&format!("k{n}"), 3_000_000);
                let response = target.request(&batch, &[], body.as_bytes());
                assert_eq!(response.status, 200, "{}", response.text());
            });
        }
    });
    target.assert_peak_memory_below(64 * MIB + 96 * MIB);
    target.assert_healthy_and_stop();
}
