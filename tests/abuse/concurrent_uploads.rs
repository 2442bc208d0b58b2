//! Large uploads beside each other, under a ceiling of memory.

use crate::{MIB, Victim};

const UPLOADS: usize = 64;
const IN_FLIGHT: u64 = 64 * MIB;
/// What the server holds besides bodies in flight: its program, the cache (32 MiB), SQLite's own,
/// and blocks that the allocator keeps for each thread.
const FIXED: u64 = 96 * MIB;

#[test]
fn sixty_four_uploads_of_25_mb_succeed_below_the_ceiling_of_memory() {
    let victim = Victim::new(&["--max-in-flight", &IN_FLIGHT.to_string()]);
    let value = vec![b'v'; 25 << 20];
    std::thread::scope(|scope| {
        for n in 0..UPLOADS {
            let (victim, value) = (&victim, &value);
            scope.spawn(move || {
                let item = victim.item(&format!("up{n}"));
                let mut client = victim.connect();
                let fields = format!("Content-Length: {}\r\n", value.len());
                client.send(victim.head(&format!("PUT {item}"), &fields)).unwrap();
                client.send(value).unwrap();
                let answer = client.read_response(false).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            });
        }
        // How long they wait is up to the disk, which all of these share.
        victim.answers_others();
    });
    victim.held_below(IN_FLIGHT + FIXED);
    for n in [0, UPLOADS / 2, UPLOADS - 1] {
        let get = format!("GET {}", victim.item(&format!("up{n}")));
        assert!(victim.server.request(&get, &[], b"").body == value);
    }
    assert_eq!(victim.blobs().len(), UPLOADS);
    victim.unharmed();
}
