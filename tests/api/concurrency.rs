//! Tests with concurrent clients: atomic conditions, lost updates, and reads during writes.

use super::support::{Client, DiskServer, Response, Server};
use super::{Case, STORES, TestServer, assert_204, assert_412, assert_put_ok};
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Duration;

/// Runs `count` clients concurrently, each with its own connection. Returns the results.
fn run_clients<T: Send>(
    server: &Server,
    count: usize,
    work: impl Fn(usize, &mut Client) -> T + Sync,
) -> Vec<T> {
    let start = Barrier::new(count);
    std::thread::scope(|scope| {
        let run = |at: usize| {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                let mut client = server.connect();
                start.wait();
                work(at, &mut client)
            })
        };
        let threads: Vec<_> = (0..count).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn count(responses: &[Response], status: u16) -> usize {
    responses.iter().filter(|response| response.status == status).count()
}

#[test]
fn exactly_one_concurrent_add_succeeds() {
    let disk = DiskServer::new(&[]);
    let id = disk.server.create_store("main");
    for round in 0..5 {
        let at = format!("{STORES}/{id}/keys/k{round}");
        // Alternate between the two ways to require that the key is absent.
        let condition = [("if-generation-match", "0")];
        let (query, headers) =
            if round % 2 == 0 { ("?add=true", &[][..]) } else { ("", &condition[..]) };
        let responses = run_clients(&disk.server, 16, |writer, client| {
            let value = format!("writer {writer}");
            client.request(&format!("PUT {at}{query}"), headers, value.as_bytes()).unwrap()
        });
        assert_eq!((count(&responses, 200), count(&responses, 412)), (1, 15), "round {round}");
        for response in responses.iter().filter(|response| response.status == 412) {
            assert_412(response);
        }
        let winner = responses.iter().position(|response| response.status == 200).unwrap();
        let got = disk.server.get(&at);
        assert_eq!(got.text(), format!("writer {winner}"));
        assert_eq!(got.generation(), responses[winner].generation());
    }
}

#[test]
fn concurrent_appends_are_all_applied_and_keep_the_order_of_each_writer() {
    const WRITERS: usize = 16;
    const APPENDS: usize = 20;
    let disk = DiskServer::new(&[]);
    let id = disk.server.create_store("main");
    for mode in ["append", "prepend"] {
        let at = format!("{STORES}/{id}/keys/{mode}");
        run_clients(&disk.server, WRITERS, |writer, client| {
            for i in 0..APPENDS {
                let value = format!("{writer}:{i};");
                let request = format!("PUT {at}?{mode}=true");
                assert_put_ok(&client.request(&request, &[], value.as_bytes()).unwrap());
            }
        });
        let text = disk.server.get(&at).text();
        let parts: Vec<&str> = text.split_terminator(';').collect();
        assert_eq!(parts.len(), WRITERS * APPENDS);
        for writer in 0..WRITERS {
            let prefix = format!("{writer}:");
            let mine = parts.iter().filter_map(|part| part.strip_prefix(&prefix));
            let mut mine: Vec<usize> = mine.map(|i| i.parse().unwrap()).collect();
            if mode == "prepend" {
                mine.reverse();
            }
            assert_eq!(mine, (0..APPENDS).collect::<Vec<_>>(), "{mode}, writer {writer}");
        }
    }
}

#[test]
fn counters_with_generation_conditions_lose_no_updates() {
    const CLIENTS: usize = 8;
    const COUNTS: usize = 10;
    let disk = DiskServer::new(&[]);
    let id = disk.server.create_store("main");
    let at = format!("{STORES}/{id}/keys/counter");
    assert_put_ok(&disk.server.request(&format!("PUT {at}"), &[], b"0"));
    let generations = run_clients(&disk.server, CLIENTS, |_, client| {
        let mut generations_written = Vec::new();
        while generations_written.len() < COUNTS {
            let got = client.get(&at).unwrap();
            let next = got.text().parse::<usize>().unwrap() + 1;
            let headers = [("if-generation-match", got.header("Generation"))];
            let put = client
                .request(&format!("PUT {at}"), &headers, next.to_string().as_bytes())
                .unwrap();
            if put.status == 200 {
                generations_written.push(put.generation());
            } else {
                assert_412(&put);
            }
        }
        assert!(generations_written.is_sorted(), "{generations_written:?}");
        generations_written
    });
    let got = disk.server.get(&at);
    assert_eq!(got.text(), (CLIENTS * COUNTS).to_string());
    let all: BTreeSet<u64> = generations.concat().into_iter().collect();
    assert_eq!(all.len(), CLIENTS * COUNTS, "a generation was reused");
    assert_eq!(all.last(), Some(&got.generation()));
}

#[test]
fn generations_are_never_reused_after_deletes_and_restarts() {
    let mut disk = DiskServer::new(&[]);
    let id = disk.server.create_store("main");
    let at = format!("{STORES}/{id}/keys/k");
    let mut generations = Vec::new();
    for round in 0..4 {
        let mut client = disk.server.connect();
        for _ in 0..25 {
            let put = client.request(&format!("PUT {at}?add=true"), &[], b"v").unwrap();
            assert_put_ok(&put);
            generations.push(put.generation());
            let condition = put.generation().to_string();
            let headers = [("if-generation-match", condition.as_str())];
            assert_204(&client.request(&format!("DELETE {at}"), &headers, b"").unwrap());
            assert_put_ok(&client.request(&format!("PUT {at}"), &[], b"w").unwrap());
            // The generation of a deleted item must not match the new item.
            assert_412(&client.request(&format!("PUT {at}"), &headers, b"x").unwrap());
            assert_412(&client.request(&format!("DELETE {at}"), &headers, b"").unwrap());
            let got = client.get(&at).unwrap();
            generations.push(got.generation());
            assert_204(&client.request(&format!("DELETE {at}"), &[], b"").unwrap());
        }
        if round % 2 == 0 {
            disk.kill_and_restart(&[]);
        } else {
            // Shut down cleanly. A memory server serves as a placeholder until the restart.
            std::mem::replace(&mut disk.server, Server::memory(&[])).stop();
            disk.kill_and_restart(&[]);
        }
    }
    assert!(generations.windows(2).all(|two| two[0] < two[1]), "{generations:?}");
}

#[test]
fn an_acknowledged_put_is_not_lost_to_a_concurrent_store_delete() {
    let disk = DiskServer::new(&[]);
    for round in 0..40 {
        let id = disk.server.create_store("main");
        let responses = run_clients(&disk.server, 4, |at, client| {
            // The delay increases with each round, so that the deletion comes first in some rounds.
            if at > 0 {
                std::thread::sleep(Duration::from_micros(50 * round));
            }
            if at == 0 {
                client.request(&format!("DELETE {STORES}/{id}"), &[], b"").unwrap()
            } else if at == 1 {
                let line = b"{\"key\":\"batch\",\"value\":\"dg==\"}";
                client.request(&format!("PUT {STORES}/{id}/batch"), &[], line).unwrap()
            } else {
                client.request(&format!("PUT {STORES}/{id}/keys/k{at}"), &[], b"v").unwrap()
            }
        });
        let puts = count(&responses[1..], 200);
        let list = disk.server.get(&format!("{STORES}/{id}/keys"));
        match responses[0].status {
            204 => {
                list.expect_error(404);
                assert_eq!(puts, 0, "round {round}: an acknowledged put was lost");
                for key in ["batch", "k2", "k3"] {
                    let got = disk.server.get(&format!("{STORES}/{id}/keys/{key}"));
                    assert_eq!(got.expect_error(404), "no store with that id");
                }
            }
            409 => {
                assert_eq!(puts, 3, "round {round}: the store exists, so all puts must succeed");
                let keys = list.json()["data"].clone();
                assert_eq!(keys, serde_json::json!(["batch", "k2", "k3"]));
                for key in ["batch", "k2", "k3"] {
                    let request = format!("DELETE {STORES}/{id}/keys/{key}");
                    assert_204(&disk.server.request(&request, &[], b""));
                }
                assert_204(&disk.server.request(&format!("DELETE {STORES}/{id}"), &[], b""));
            }
            other => panic!("round {round}: unexpected status {other}: {:?}", responses[0]),
        }
    }
}

#[test]
fn exactly_one_concurrent_create_with_the_same_name_succeeds() {
    let disk = DiskServer::new(&[]);
    for round in 0..5 {
        let body = format!("{{\"name\":\"s{round}\"}}");
        let responses = run_clients(&disk.server, 16, |_, client| {
            client.request(&format!("POST {STORES}"), &[], body.as_bytes()).unwrap()
        });
        assert_eq!((count(&responses, 201), count(&responses, 400)), (1, 15));
        let detail = format!("store with name 's{round}' already exists");
        for response in responses.iter().filter(|response| response.status == 400) {
            assert_eq!(response.expect_error(400), detail);
        }
        let total = disk.server.get(STORES).json()["meta"]["total"].clone();
        assert_eq!(total, round + 1);
    }
}

#[test]
fn exactly_one_concurrent_rename_to_the_same_name_succeeds() {
    let server = TestServer::start(&[]);
    let ids: Vec<String> = (0..8).map(|i| server.create_store(&format!("s{i}"))).collect();
    let responses = run_clients(&server, ids.len(), |at, client| {
        client.request(&format!("PUT {STORES}/{}", ids[at]), &[], b"{\"name\":\"one\"}").unwrap()
    });
    assert_eq!((count(&responses, 200), count(&responses, 400)), (1, 7));
    let list = server.get(STORES).json();
    assert_eq!(list["meta"]["total"], 8);
    let winner = responses.iter().position(|response| response.status == 200).unwrap();
    let found = server.get(&format!("{STORES}?name=one")).json();
    assert_eq!(found["data"][0]["id"], ids[winner].as_str());
}

#[test]
fn readers_never_see_mixed_values_during_overwrites() {
    let case = Case::new();
    let large = 1_200_000;
    assert_put_ok(&case.put("k", &[("metadata", "0")], &vec![b'0'; large]));
    let path = case.item_path("k");
    run_clients(&case.server, 4, |at, client| {
        for i in 0..15_usize {
            if at < 2 {
                let digit = u8::try_from((at * 5 + i) % 10).unwrap() + b'0';
                // Alternate between values below and above the size threshold for blob files.
                let value = vec![digit; if i % 2 == 0 { large } else { 1000 }];
                let text = char::from(digit).to_string();
                let headers = [("metadata", text.as_str())];
                assert_put_ok(&client.request(&format!("PUT {path}"), &headers, &value).unwrap());
            } else {
                let got = client.get(&path).unwrap();
                let digit = got.header("Metadata").as_bytes()[0];
                assert!(
                    got.body.iter().all(|byte| *byte == digit),
                    "the value is a mix of two values"
                );
                assert!([1000, large].contains(&got.body.len()));
            }
        }
    });
}
