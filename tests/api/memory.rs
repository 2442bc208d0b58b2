//! Tests of the memory used for large values. An upload, batch or download waits until the memory
//! that it needs fits within `--max-in-flight`. How much it needs depends on the engine.

use super::Case;
use super::support::process_memory;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::time::Duration;

/// The size of a large value in bytes.
const LARGE_BYTES: usize = 25 << 20;
/// Maximum memory in bytes for one batch line and its value, including allocator overhead.
const CEILING: u64 = 440 << 20;
/// If a request gets no response within this time, the test concludes that it waits for memory.
const WAITS: Duration = Duration::from_millis(500);

#[test]
fn uploads_wait_until_their_memory_is_available() {
    // Uploads may use 3/8 of the limit, which is enough for one upload of 20 MiB.
    let case = Case::with(&["--max-in-flight", "67108864"]);
    let size = 20 << 20;
    let start = |key: &str| {
        let headers = format!("Content-Length: {size}\r\nExpect: 100-continue\r\n");
        case.send_head(&format!("PUT {}", case.item_path(key)), &headers)
    };
    let mut first = start("first");
    assert_eq!(first.read_response(false).unwrap().status, 100);
    let mut second = start("second");
    second.set_read_timeout(WAITS);
    let admitted = second.read_response(false);
    if env!("CARGO_CRATE_NAME") == "api_embedded" {
        assert_eq!(
            admitted.unwrap().status,
            100,
            "the embedded engine streams large values to files"
        );
        return;
    }
    assert!(admitted.is_err(), "the second upload did not wait for memory");
    first.send(vec![b'1'; size]).unwrap();
    assert_eq!(first.read_response(false).unwrap().status, 200);
    second.set_read_timeout(Duration::from_secs(60));
    assert_eq!(second.read_response(false).unwrap().status, 100);
    second.send(vec![b'2'; size]).unwrap();
    assert_eq!(second.read_response(false).unwrap().status, 200);
    assert_eq!(case.get_value("second"), vec![b'2'; size]);
}

#[test]
fn concurrent_batches_of_large_values_stay_below_a_memory_ceiling() {
    const VALUES: usize = 5;
    let case = Case::with(&["--max-in-flight", "67108864", "--cache", "16777216"]);
    if case.server._dir.is_none() && case.server.database.is_none() {
        // The memory engine keeps all values in memory.
        return;
    }
    let value = BASE64_STANDARD.encode(vec![b'v'; LARGE_BYTES]);
    let line = |nth| format!("{{\"key\":\"k{nth}\",\"value\":\"{value}\"}}\n");
    let body: String = (0..VALUES).map(line).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let batch = format!("PUT {}/batch", case.store_path());
                let response = case.server.request(&batch, &[], body.as_bytes());
                assert_eq!(response.status, 200, "{}", response.text());
            });
        }
    });
    let peak = process_memory(case.server.pid(), "VmHWM").unwrap();
    println!("peak memory {} MiB", peak >> 20);
    assert!(peak < CEILING, "the peak memory is {} MiB", peak >> 20);
    assert_eq!(case.list_keys().len(), VALUES);
    assert_eq!(case.get_value("k4").len(), LARGE_BYTES);
}

#[test]
fn large_gets_are_served_while_other_readers_stall() {
    // Downloads may use half of the limit of 256 MiB, which is enough for five large values.
    let case = Case::with(&["--body-timeout", "300"]);
    case.put_ok("large", &[], &vec![b'v'; LARGE_BYTES]);
    let get = format!("GET {}", case.item_path("large"));
    let stalled: Vec<_> = (0..5).map(|_| case.send_head(&get, "")).collect();
    std::thread::sleep(WAITS);
    let served = (0..2).any(|_| case.get("large").status == 200);
    assert!(served, "stalled readers use all the memory for downloads");
    drop(stalled);
}
