//! Tests of uploads that end before their declared length.

use crate::{MIB, Target, wait_until};

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may read its environment")]
fn a_truncated_upload_leaves_the_item_unchanged() {
    let step = match std::env::var("STEADFAST_ABUSE_LONG") {
        Ok(_) => 1024,
        Err(_) => 256 * 1024,
    };
    let target = Target::new(&[]);
    let item = target.item("truncated");
    let old = vec![b'o'; 1_100_000];
    assert_eq!(target.request(&format!("PUT {item}"), &[], &old).status, 200);
    let before = target.get(&item);
    let body = vec![b'n'; 25 << 20];
    let chunk = format!("{:x}\r\n", body.len());
    for (round, length) in (0..body.len()).step_by(step).enumerate() {
        let mut client = target.connect();
        let chunked = round % 2 == 1;
        if chunked {
            let headers = "Transfer-Encoding: chunked\r\n";
            client.send(target.head(&format!("PUT {item}"), headers) + &chunk).unwrap();
        } else {
            let headers = format!("Content-Length: {}\r\n", body.len());
            client.send(target.head(&format!("PUT {item}"), &headers)).unwrap();
        }
        client.send(&body[..length]).unwrap();
        // Half of the clients disconnect. The others shut down the sending side and read the
        // response.
        if round % 4 < 2 {
            client.shutdown_write();
            client.read_response(false).unwrap().expect_error(400);
        }
    }
    // A chunked body without its last chunk is incomplete.
    let mut client = target.connect();
    client.send(target.head(&format!("PUT {item}"), "Transfer-Encoding: chunked\r\n")).unwrap();
    client.send([chunk.as_bytes(), &body, b"\r\n"].concat()).unwrap();
    client.shutdown_write();
    client.read_response(false).unwrap().expect_error(400);
    target.wait_until_connections_close();
    let after = target.get(&item);
    assert_eq!(after.generation(), before.generation());
    assert!(after.body == old, "the value has changed");
    wait_until("blob files of truncated uploads remain", || target.blob_files().len() == 1);
    target.assert_peak_memory_below(96 * MIB);
    target.assert_healthy_and_stop();
}
