//! Tests that concurrent large uploads stay within the memory limit.

use crate::{MIB, Target};

const UPLOADS: usize = 64;
const IN_FLIGHT: u64 = 64 * MIB;
/// Memory in bytes for everything except bodies in flight: the program, the read cache (32 MiB),
/// SQLite and the allocator arenas.
const BASE_MEMORY: u64 = 96 * MIB;

#[test]
fn sixty_four_uploads_of_25_mib_stay_within_the_memory_limit() {
    let target = Target::new(&["--max-in-flight", &IN_FLIGHT.to_string()]);
    let value = vec![b'v'; 25 << 20];
    std::thread::scope(|scope| {
        for n in 0..UPLOADS {
            let (target, value) = (&target, &value);
            scope.spawn(move || {
                let item = target.item(&format!("up{n}"));
                let mut client = target.connect();
                let headers = format!("Content-Length: {}\r\n", value.len());
                client.send(target.head(&format!("PUT {item}"), &headers)).unwrap();
                client.send(value).unwrap();
                let response = client.read_response(false).unwrap();
                assert_eq!(response.status, 200, "{}", response.text());
            });
        }
        // The response time is not checked, because all uploads share the disk.
        target.assert_available();
    });
    target.assert_peak_memory_below(IN_FLIGHT + BASE_MEMORY);
    for n in [0, UPLOADS / 2, UPLOADS - 1] {
        let get = format!("GET {}", target.item(&format!("up{n}")));
        assert!(target.request(&get, &[], b"").body == value);
    }
    assert_eq!(target.blob_files().len(), UPLOADS);
    target.assert_healthy_and_stop();
}
