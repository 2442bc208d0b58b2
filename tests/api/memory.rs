//! Memory of large values: uploads, batches and downloads wait for memory within
//! `--max-in-flight`, by the size that they take with the engine.

use super::Case;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// How long a request must wait to show that it does not have its memory.
const WAITS: Duration = Duration::from_millis(500);

#[test]
fn uploads_wait_for_the_memory_that_they_take() {
    // 3/8 of the limit is for uploads: enough for one of 20 MiB.
    let case = Case::with(&["--max-in-flight", "67108864"]);
    let size = 20 * MIB;
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
        assert_eq!(admitted.unwrap().status, 100, "the values go into files");
        return;
    }
    assert!(admitted.is_err(), "both values would be in memory");
    first.send(vec![b'1'; size]).unwrap();
    assert_eq!(first.read_response(false).unwrap().status, 200);
    second.set_read_timeout(Duration::from_secs(60));
    assert_eq!(second.read_response(false).unwrap().status, 100);
    second.send(vec![b'2'; size]).unwrap();
    assert_eq!(second.read_response(false).unwrap().status, 200);
    assert_eq!(case.get_value("second"), vec![b'2'; size]);
}
