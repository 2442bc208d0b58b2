//! Uploads that break off.

use crate::{MIB, Victim, eventually};

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn an_upload_cut_anywhere_leaves_the_item_as_it_was() {
    let step = match std::env::var("STEADFAST_HOSTILE_LONG") {
        Ok(_) => 1024,
        Err(_) => 256 * 1024,
    };
    let victim = Victim::new(&[]);
    let item = victim.item("cut");
    let old = vec![b'o'; 1_000_000];
    assert_eq!(victim.server.request(&format!("PUT {item}"), &[], &old).status, 200);
    let before = victim.server.request(&format!("GET {item}"), &[], b"");
    let body = vec![b'n'; 25 << 20];
    let chunk = format!("{:x}\r\n", body.len());
    for (round, cut) in (0..body.len()).step_by(step).enumerate() {
        let mut client = victim.connect();
        let chunked = round % 2 == 1;
        if chunked {
            let fields = "Transfer-Encoding: chunked\r\n";
            client.send(victim.head(&format!("PUT {item}"), fields) + &chunk).unwrap();
        } else {
            let fields = format!("Content-Length: {}\r\n", body.len());
            client.send(victim.head(&format!("PUT {item}"), &fields)).unwrap();
        }
        client.send(&body[..cut]).unwrap();
        // Every other pair goes away at once; the rest ends its side and waits for the answer.
        if round % 4 < 2 {
            client.shutdown_write();
            client.read_response(false).unwrap().expect_error(400);
        }
    }
    // A whole body without its last chunk is none.
    let mut client = victim.connect();
    client.send(victim.head(&format!("PUT {item}"), "Transfer-Encoding: chunked\r\n")).unwrap();
    client.send([chunk.as_bytes(), &body, b"\r\n"].concat()).unwrap();
    client.shutdown_write();
    client.read_response(false).unwrap().expect_error(400);
    victim.lets_go();
    let after = victim.server.request(&format!("GET {item}"), &[], b"");
    assert_eq!(after.generation(), before.generation());
    assert!(after.body == old, "the value has changed");
    eventually("files of cut uploads stay", || victim.blobs().len() == 1);
    victim.held_below(96 * MIB);
    victim.unharmed();
}
