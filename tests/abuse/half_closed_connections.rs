//! Tests of half-closed and abandoned connections.

use crate::Target;

#[test]
fn half_closed_connections_are_closed() {
    let target = Target::new(&[]);
    let item = target.item("half");
    let declared = target.head(&format!("PUT {item}"), "Content-Length: 26214400\r\n");
    let request = target.head("GET /healthz", "");
    let heads = ["", "\r\n", "G", &request[..30], &declared, &request, &format!("{request}GET /h")];
    let mut clients = Vec::new();
    for n in 0..700 {
        let mut client = target.connect();
        client.send(heads[n % heads.len()]).unwrap();
        client.shutdown_write();
        clients.push(client);
    }
    // The clients can still receive a response, but do not read it.
    target.wait_until_connections_close();
    drop(clients);
    target.assert_healthy_and_stop();
}

#[test]
fn connections_dropped_before_the_response_are_closed() {
    let target = Target::new(&[]);
    let item = target.item("large");
    let put = target.request(&format!("PUT {item}"), &[], &vec![b'v'; 25 << 20]);
    assert_eq!(put.status, 200);
    for n in 0..300 {
        let mut client = target.connect();
        let next = if n % 3 == 0 { "GET /readyz".to_owned() } else { format!("GET {item}") };
        client.send(target.head(&next, "")).unwrap();
        if n % 2 == 0 {
            // Dropping a socket with unread bytes resets the connection.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    target.wait_until_connections_close();
    target.assert_healthy_and_stop();
}
