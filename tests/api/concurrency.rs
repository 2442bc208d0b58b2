//! What holds when many clients write at once.

use crate::support::{Client, DiskServer, Response, Server};
use crate::{Case, STORES, accepted, gone, unmet};
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Duration;

/// Runs so many clients at once, each with a connection of its own, and answers what they bring.
fn clients<T: Send>(
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

fn count(answers: &[Response], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

#[test]
fn of_racing_adds_one_wins() {
    let home = DiskServer::new(&[]);
    let id = home.server.create_store("main");
    for round in 0..5 {
        let at = format!("{STORES}/{id}/keys/k{round}");
        // Both ways of demanding that there is nothing.
        let demand = [("if-generation-match", "0")];
        let (query, fields) =
            if round % 2 == 0 { ("?add=true", &[][..]) } else { ("", &demand[..]) };
        let answers = clients(&home.server, 16, |writer, client| {
            let value = format!("writer {writer}");
            client.request(&format!("PUT {at}{query}"), fields, value.as_bytes()).unwrap()
        });
        assert_eq!((count(&answers, 200), count(&answers, 412)), (1, 15), "round {round}");
        for answer in answers.iter().filter(|answer| answer.status == 412) {
            unmet(answer);
        }
        let winner = answers.iter().position(|answer| answer.status == 200).unwrap();
        let got = home.server.request(&format!("GET {at}"), &[], b"");
        assert_eq!(got.text(), format!("writer {winner}"));
        assert_eq!(got.generation(), answers[winner].generation());
    }
}

#[test]
fn racing_appends_lose_nothing_and_keep_each_writers_order() {
    const WRITERS: usize = 16;
    const APPENDS: usize = 20;
    let home = DiskServer::new(&[]);
    let id = home.server.create_store("main");
    for mode in ["append", "prepend"] {
        let at = format!("{STORES}/{id}/keys/{mode}");
        clients(&home.server, WRITERS, |writer, client| {
            for i in 0..APPENDS {
                let value = format!("{writer}:{i};");
                let request = format!("PUT {at}?{mode}=true");
                accepted(&client.request(&request, &[], value.as_bytes()).unwrap());
            }
        });
        let text = home.server.request(&format!("GET {at}"), &[], b"").text();
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
fn counting_by_demanded_generations_loses_nothing() {
    const CLIENTS: usize = 8;
    const COUNTS: usize = 10;
    let home = DiskServer::new(&[]);
    let id = home.server.create_store("main");
    let at = format!("{STORES}/{id}/keys/counter");
    accepted(&home.server.request(&format!("PUT {at}"), &[], b"0"));
    let generations = clients(&home.server, CLIENTS, |_, client| {
        let mut made = Vec::new();
        while made.len() < COUNTS {
            let got = client.request(&format!("GET {at}"), &[], b"").unwrap();
            let next = got.text().parse::<usize>().unwrap() + 1;
            let fields = [("if-generation-match", got.header("Generation"))];
            let put =
                client.request(&format!("PUT {at}"), &fields, next.to_string().as_bytes()).unwrap();
            if put.status == 200 {
                made.push(put.generation());
            } else {
                unmet(&put);
            }
        }
        assert!(made.is_sorted(), "{made:?}");
        made
    });
    let got = home.server.request(&format!("GET {at}"), &[], b"");
    assert_eq!(got.text(), (CLIENTS * COUNTS).to_string());
    let all: BTreeSet<u64> = generations.concat().into_iter().collect();
    assert_eq!(all.len(), CLIENTS * COUNTS, "no generation comes twice");
    assert_eq!(all.last(), Some(&got.generation()));
}

#[test]
fn a_generation_never_comes_again_after_deletes_and_restarts() {
    let mut home = DiskServer::new(&[]);
    let id = home.server.create_store("main");
    let at = format!("{STORES}/{id}/keys/k");
    let mut generations = Vec::new();
    for round in 0..4 {
        let mut client = home.server.connect();
        for _ in 0..25 {
            let put = client.request(&format!("PUT {at}?add=true"), &[], b"v").unwrap();
            accepted(&put);
            generations.push(put.generation());
            let demand = put.generation().to_string();
            let fields = [("if-generation-match", demand.as_str())];
            gone(&client.request(&format!("DELETE {at}"), &fields, b"").unwrap());
            accepted(&client.request(&format!("PUT {at}"), &[], b"w").unwrap());
            // The generation of the deleted item is no key to the new one.
            unmet(&client.request(&format!("PUT {at}"), &fields, b"x").unwrap());
            unmet(&client.request(&format!("DELETE {at}"), &fields, b"").unwrap());
            let got = client.request(&format!("GET {at}"), &[], b"").unwrap();
            generations.push(got.generation());
            gone(&client.request(&format!("DELETE {at}"), &[], b"").unwrap());
        }
        if round % 2 == 0 {
            home.kill_and_restart(&[]);
        } else {
            // One in order: another takes its place until the data is free.
            std::mem::replace(&mut home.server, Server::memory(&[])).stop();
            home.kill_and_restart(&[]);
        }
    }
    assert!(generations.windows(2).all(|two| two[0] < two[1]), "{generations:?}");
}

#[test]
fn a_put_racing_the_deletion_of_its_store_is_kept_or_refused_never_lost() {
    let home = DiskServer::new(&[]);
    for round in 0..40 {
        let id = home.server.create_store("main");
        let answers = clients(&home.server, 4, |at, client| {
            // The later the puts come, the more often the deletion wins.
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
        let puts = count(&answers[1..], 200);
        let list = home.server.request(&format!("GET {STORES}/{id}/keys"), &[], b"");
        match answers[0].status {
            204 => {
                list.expect_error(404);
                assert_eq!(puts, 0, "round {round}: a put was acknowledged and is lost");
                for key in ["batch", "k2", "k3"] {
                    let got =
                        home.server.request(&format!("GET {STORES}/{id}/keys/{key}"), &[], b"");
                    assert_eq!(got.expect_error(404), "no store with that id");
                }
            }
            409 => {
                assert_eq!(puts, 3, "round {round}: the store was there all the time");
                let keys = list.json()["data"].clone();
                assert_eq!(keys, serde_json::json!(["batch", "k2", "k3"]));
                for key in ["batch", "k2", "k3"] {
                    let request = format!("DELETE {STORES}/{id}/keys/{key}");
                    gone(&home.server.request(&request, &[], b""));
                }
                gone(&home.server.request(&format!("DELETE {STORES}/{id}"), &[], b""));
            }
            other => panic!("round {round}: {other} {:?}", answers[0]),
        }
    }
}

#[test]
fn of_racing_stores_of_one_name_one_is_created() {
    let home = DiskServer::new(&[]);
    for round in 0..5 {
        let body = format!("{{\"name\":\"s{round}\"}}");
        let answers = clients(&home.server, 16, |_, client| {
            client.request(&format!("POST {STORES}"), &[], body.as_bytes()).unwrap()
        });
        assert_eq!((count(&answers, 201), count(&answers, 400)), (1, 15));
        let detail = format!("store with name 's{round}' already exists");
        for answer in answers.iter().filter(|answer| answer.status == 400) {
            assert_eq!(answer.expect_error(400), detail);
        }
        let total =
            home.server.request(&format!("GET {STORES}"), &[], b"").json()["meta"]["total"].clone();
        assert_eq!(total, round + 1);
    }
}

#[test]
fn of_racing_renames_to_one_name_one_wins() {
    let server = Server::memory(&[]);
    let ids: Vec<String> = (0..8).map(|i| server.create_store(&format!("s{i}"))).collect();
    let answers = clients(&server, ids.len(), |at, client| {
        client.request(&format!("PUT {STORES}/{}", ids[at]), &[], b"{\"name\":\"one\"}").unwrap()
    });
    assert_eq!((count(&answers, 200), count(&answers, 400)), (1, 7));
    let list = server.request(&format!("GET {STORES}"), &[], b"").json();
    assert_eq!(list["meta"]["total"], 8);
    let winner = answers.iter().position(|answer| answer.status == 200).unwrap();
    let found = server.request(&format!("GET {STORES}?name=one"), &[], b"").json();
    assert_eq!(found["data"][0]["id"], ids[winner].as_str());
}

#[test]
fn a_reader_sees_whole_values_while_they_are_overwritten() {
    let case = Case::new();
    let large = 600_000;
    accepted(&case.put("k", &[("metadata", "0")], &vec![b'0'; large]));
    let path = case.path("k");
    clients(&case.server, 4, |at, client| {
        for i in 0..15_usize {
            if at < 2 {
                let digit = u8::try_from((at * 5 + i) % 10).unwrap() + b'0';
                // Values below and above the size at which they are kept apart.
                let value = vec![digit; if i % 2 == 0 { large } else { 1000 }];
                let text = char::from(digit).to_string();
                let fields = [("metadata", text.as_str())];
                accepted(&client.request(&format!("PUT {path}"), &fields, &value).unwrap());
            } else {
                let got = client.request(&format!("GET {path}"), &[], b"").unwrap();
                let digit = got.header("Metadata").as_bytes()[0];
                assert!(got.body.iter().all(|byte| *byte == digit), "a mixed value");
                assert!([1000, large].contains(&got.body.len()));
            }
        }
    });
}
