//! Batches against the bound of bytes in flight.

use crate::{MIB, Victim};

fn line(key: &str, value_bytes: usize) -> String {
    // In base64, four zero letters are three zero bytes.
    let value = "AAAA".repeat(value_bytes / 3);
    format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n")
}

#[test]
fn a_long_line_passes_however_small_the_bound_is() {
    let victim = Victim::new(&["--max-in-flight", "16777216"]);
    let batch = format!("PUT /resources/stores/kv/{}/batch", victim.store);
    let body = line("a", 6_000_000) + &line("b", 3) + &line("c", 3_000_000);
    assert_eq!(victim.server.request(&batch, &[], body.as_bytes()).status, 200);
    assert_eq!(
        victim.server.request(&format!("GET {}", victim.item("a")), &[], b"").body.len(),
        6_000_000
    );
    victim.unharmed();
}

#[test]
fn many_batches_with_long_lines_pass_beside_each_other() {
    let victim = Victim::new(&["--max-in-flight", "67108864"]);
    std::thread::scope(|scope| {
        for n in 0..24 {
            let victim = &victim;
            scope.spawn(move || {
                let batch = format!("PUT /resources/stores/kv/{}/batch", victim.store);
                let body = line(&format!("k{n}"), 3_000_000);
                let answer = victim.server.request(&batch, &[], body.as_bytes());
                assert_eq!(answer.status, 200, "{}", answer.text());
            });
        }
    });
    victim.held_below(64 * MIB + 96 * MIB);
    victim.unharmed();
}
