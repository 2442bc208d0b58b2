//! Sockets of which one side is gone.

use crate::Victim;

#[test]
fn half_closed_sockets_are_let_go() {
    let victim = Victim::new(&[]);
    let item = victim.item("half");
    let declared = victim.head(&format!("PUT {item}"), "Content-Length: 26214400\r\n");
    let asks = victim.head("GET /healthz", "");
    let starts = ["", "\r\n", "G", &asks[..30], &declared, &asks, &format!("{asks}GET /h")];
    let mut clients = Vec::new();
    for n in 0..700 {
        let mut client = victim.connect();
        client.send(starts[n % starts.len()]).unwrap();
        client.shutdown_write();
        clients.push(client);
    }
    // They keep their own side open and read nothing.
    victim.lets_go();
    drop(clients);
    victim.unharmed();
}

#[test]
fn clients_that_go_away_before_their_answer_are_let_go() {
    let victim = Victim::new(&[]);
    let item = victim.item("large");
    let put = victim.server.request(&format!("PUT {item}"), &[], &vec![b'v'; 25 << 20]);
    assert_eq!(put.status, 200);
    for n in 0..300 {
        let mut client = victim.connect();
        let request = if n % 3 == 0 { "GET /readyz".to_owned() } else { format!("GET {item}") };
        client.send(victim.head(&request, "")).unwrap();
        if n % 2 == 0 {
            // With bytes unread, dropping resets the connection instead of ending it.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    victim.lets_go();
    victim.unharmed();
}
