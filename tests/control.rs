//! The control interface over a real socket, with an engine that is made up.
#![allow(clippy::unwrap_used)]

mod control_support;

use control_support::{Fake, session};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tapnat::control::protocol::{Body, LONGEST_REQUEST, Request};
use tapnat::control::server::CLIENTS;
use tapnat::control::{Client, ClientError, Engine, Server};
use tapnat::flow::{Endpoint, Flow, Protocol, Time};
use tapnat::nat::Refusal;
use tapnat::observe::Filter;
use tapnat::observe::event::{Event, Kind, Note, PacketSeen, What};
use tapnat::observe::record::WhatRecord;

struct Bench {
    home: tempfile::TempDir,
    fake: Arc<Fake>,
    server: Option<Server>,
}

impl Bench {
    fn new(fake: Fake) -> Bench {
        let home = tempfile::tempdir().unwrap();
        let fake = Arc::new(fake);
        let server =
            Server::start(&home.path().join("gw.sock"), Arc::clone(&fake) as Arc<dyn Engine>).unwrap();
        Bench { home, fake, server: Some(server) }
    }

    fn with_sessions() -> Bench {
        let sessions = vec![
            session(1, Protocol::Tcp, 3, 80),
            session(2, Protocol::Udp, 2, 53),
            session(3, Protocol::Tcp, 2, 443),
        ];
        Bench::new(Fake { sessions: Mutex::new(sessions), ..Fake::default() })
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("gw.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    /// A client that speaks lines as `nc -U` would.
    fn raw(&self) -> (UnixStream, BufReader<UnixStream>) {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        assert!(next(&mut reader).starts_with(r#"{"tapnat":""#));
        (stream, reader)
    }
}

fn next(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn refused(result: Result<(Vec<Body>, u64), ClientError>) -> (String, String) {
    match result {
        Err(ClientError::Refused(problem)) => (problem.word, problem.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_documented_lines_go_over_the_wire() {
    let bench = Bench::with_sessions();
    let stream = UnixStream::connect(bench.path()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(next(&mut reader), format!(r#"{{"tapnat":"{version}","protocol":1,"name":"fake","pid":7}}"#));
    // Two requests in one piece, and one in two pieces.
    (&stream)
        .write_all(b"{\"id\":1,\"request\":\"flows\",\"filter\":{\"protocol\":\"udp\"}}\n{\"id\":2,")
        .unwrap();
    (&stream).write_all(b"\"request\":\"publish-add\",\"spec\":\"666:10.88.0.2:6/tcp\"}\n").unwrap();
    assert_eq!(
        next(&mut reader),
        r#"{"id":1,"flow":{"id":2,"protocol":"udp","inside":{"address":"10.88.0.2","port":40000},"outside":{"address":"203.0.113.1","port":61234},"remote":{"address":"198.51.100.7","port":53},"state":"answered","answered":true,"published":false,"opened":"2023-11-14T22:13:21.000000Z","age_seconds":10.0,"expires_seconds":300.0,"packets_out":1,"packets_in":1,"bytes_out":60,"bytes_in":60}}"#
    );
    assert_eq!(next(&mut reader), r#"{"id":1,"done":true,"count":1}"#);
    assert_eq!(
        next(&mut reader),
        r#"{"id":2,"error":{"word":"not-leased","message":"tcp 203.0.113.1:666: in use by sshd","cure":"stop the host's program that has the port, or take another"}}"#
    );
}

#[test]
fn flows_are_filtered_and_sorted_and_flushed() {
    let bench = Bench::with_sessions();
    let mut client = bench.client();
    let ids = |client: &mut Client, filter: &Filter| -> Vec<u64> {
        let (bodies, count) = client.all(&Request::Flows { filter: filter.clone() }).unwrap();
        assert_eq!(count, bodies.len() as u64);
        bodies
            .iter()
            .map(|body| if let Body::Flow(flow) = body { flow.id } else { panic!("{body:?}") })
            .collect()
    };
    let all = Filter::default();
    assert_eq!(ids(&mut client, &all), [2, 3, 1], "by inside host, then by age");
    let tcp = Filter { protocol: "tcp".parse().ok(), ..Filter::default() };
    assert_eq!(ids(&mut client, &tcp), [3, 1]);
    for (filter, want) in [
        (Filter { inside: "10.88.0.2".parse().ok(), ..Filter::default() }, vec![2, 3]),
        (Filter { inside: "10.88.0.0/24".parse().ok(), port: Some(53), ..Filter::default() }, vec![2]),
        (Filter { remote: "198.51.100.7:443".parse().ok(), ..Filter::default() }, vec![3]),
        (Filter { outside: "203.0.113.9".parse().ok(), ..Filter::default() }, vec![]),
        (Filter { state: "established".parse().ok(), ..Filter::default() }, vec![3, 1]),
    ] {
        assert_eq!(ids(&mut client, &filter), want, "{filter:?}");
    }
    assert_eq!(client.all(&Request::Flush { filter: tcp }).unwrap(), (vec![], 2));
    assert_eq!(ids(&mut client, &all), [2]);
}

#[test]
fn forwards_are_made_wholly_or_not_at_all() {
    let bench = Bench::new(Fake::default());
    let mut client = bench.client();
    let add = |client: &mut Client, spec: &str| client.all(&Request::PublishAdd { spec: spec.into() });
    let remove = |client: &mut Client, spec: &str| client.all(&Request::PublishRemove { spec: spec.into() });
    let held = || bench.fake.forwards.lock().unwrap().len();
    assert_eq!(add(&mut client, "80-81:10.88.0.2:8080-8081/tcp").unwrap().1, 4, "two ports on two addresses");
    assert_eq!(refused(add(&mut client, "79-81:10.88.0.3/tcp")).0, "taken");
    assert_eq!(held(), 4, "79 was made and taken back");
    assert_eq!(refused(add(&mut client, "90:192.0.2.1/tcp")).0, "not-inside");
    assert_eq!(refused(add(&mut client, "90:10.88.0.1/tcp")).0, "not-inside");
    assert_eq!(refused(add(&mut client, "90:10.88.0.255/tcp")).0, "not-inside");
    assert_eq!(refused(add(&mut client, "90:10.88.0.2")).0, "bad-request");
    let (list, _) = client.all(&Request::PublishList {}).unwrap();
    let Body::Forward(first) = &list[0] else { panic!("{list:?}") };
    assert_eq!((first.outside.as_str(), first.inside.as_str()), ("203.0.113.1:80", "10.88.0.2:8080"));
    assert_eq!(
        refused(remove(&mut client, "80:10.88.0.9:8080/tcp")).0,
        "not-found",
        "another host's forward stays"
    );
    assert_eq!(refused(remove(&mut client, "80/udp")).0, "not-found");
    assert_eq!(remove(&mut client, "203.0.113.2:80/tcp").unwrap().1, 1);
    assert_eq!(remove(&mut client, "80-81:10.88.0.2:8080-8081/tcp").unwrap().1, 3);
    assert_eq!(held(), 0);
}

#[test]
fn a_reload_is_told_key_by_key_or_refused() {
    let bench = Bench::new(Fake::default());
    let mut client = bench.client();
    let reload = |config: Option<&str>, dry_run| Request::Reload {
        config: config.map(Into::into),
        text: None,
        dry_run,
    };
    assert_eq!(refused(client.all(&reload(None, false))).0, "no-file");
    let (bodies, count) = client.all(&reload(Some("/etc/gw.toml"), false)).unwrap();
    let [Body::Change(change), Body::Reloaded(record)] = &bodies[..] else { panic!("{bodies:?}") };
    assert_eq!((change.to_string().as_str(), count), ("timeouts.udp: 5m -> /etc/gw.toml", 1));
    assert_eq!((record.dry_run, record.kept, record.ended), (false, 12, 1));
    let sent =
        |text: String| Request::Reload { config: Some("my.toml".into()), text: Some(text), dry_run: true };
    let (bodies, _) = client.all(&sent("mtu = 1".into())).unwrap();
    let Body::Change(change) = &bodies[0] else { panic!("{bodies:?}") };
    assert_eq!(change.new, "my.toml: mtu = 1", "who asks has read the file");
    let long = client.all(&sent("x".repeat(LONGEST_REQUEST))).unwrap_err();
    assert!(long.to_string().contains("a gateway takes 524288 at most"), "{long}");
}

#[test]
fn lookup_finds_the_holder_of_an_outside_port_and_the_ports_of_a_host() {
    let bench = Bench::with_sessions();
    let mut client = bench.client();
    client.all(&Request::PublishAdd { spec: "203.0.113.1:80:10.88.0.3:8080/tcp".into() }).unwrap();
    let mut ask = |who: &str, at: Option<&str>| {
        let (bodies, _) = client.all(&Request::Lookup { who: who.into(), at: at.map(Into::into) })?;
        let holder = |body: Body| match body {
            Body::Holder(holder) => format!(
                "{} {} {} {} {}",
                holder.why,
                holder.protocol.unwrap_or_default(),
                holder.inside,
                holder.outside,
                holder.flows
            ),
            other => panic!("{other:?}"),
        };
        Ok::<Vec<String>, ClientError>(bodies.into_iter().map(holder).collect())
    };
    assert_eq!(
        ask("203.0.113.1:61234/udp", None).unwrap(),
        ["mapping udp 10.88.0.2:40000 203.0.113.1:61234 1"]
    );
    assert_eq!(ask("203.0.113.1:80", None).unwrap(), ["forward tcp 10.88.0.3:8080 203.0.113.1:80 0"]);
    assert_eq!(
        ask("10.88.0.3", None).unwrap(),
        ["mapping tcp 10.88.0.3:40000 203.0.113.1:61234 1", "forward tcp 10.88.0.3:8080 203.0.113.1:80 0"]
    );
    assert_eq!(ask("10.88.0.2:40000/tcp", Some("2023-11-14T22:13:21Z")).unwrap().len(), 1);
    let refused = |result: Result<Vec<String>, ClientError>| match result {
        Err(ClientError::Refused(problem)) => problem.word,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(ask("10.88.0.2:40000/tcp", Some("2023-11-14T22:13:20Z"))), "not-found");
    assert_eq!(refused(ask("203.0.113.1:9", None)), "not-found");
    let own = "block  10.88.0.2 203.0.113.1:5056-9087 0";
    let lent = "lent-block  10.88.0.9 203.0.113.1:5100-5199 0";
    assert_eq!(ask("203.0.113.1:5100", None).unwrap(), [own, lent]);
    assert_eq!(ask("203.0.113.1:5100", Some("2023-11-14T22:13:23Z")).unwrap(), [own, lent]);
    assert_eq!(ask("203.0.113.1:5100", Some("2023-11-14T22:13:26Z")).unwrap(), [own], "between two");
    for bad in ["203.0.113.1", "ten", "10.88.0.2/sctp", ""] {
        assert_eq!(refused(ask(bad, None)), "bad-request", "{bad}");
    }
    assert_eq!(refused(ask("10.88.0.2", Some("yesterday"))), "bad-request");
}

#[test]
fn bad_requests_are_answered_and_the_connection_lives() {
    let bench = Bench::with_sessions();
    let (mut stream, mut reader) = bench.raw();
    for (line, want) in [
        ("nonsense", r#"{"id":null,"error":{"word":"bad-request","message":"not JSON"#),
        ("\u{ff}", r#"{"id":null,"error":{"word":"bad-request","message":"not JSON"#),
        (
            "{\"id\":5,\"request\":\"dance\"}",
            r#"{"id":5,"error":{"word":"bad-request","message":"no request `dance`"#,
        ),
        (
            "{\"id\":6,\"request\":\"flush\",\"filters\":{}}",
            r#"{"id":6,"error":{"word":"bad-request","message":"`flush` has no key"#,
        ),
        (
            "{\"id\":7,\"request\":\"events\",\"kinds\":[\"all\"]}",
            r#"{"id":7,"error":{"word":"bad-request","message":"no kind `all`"#,
        ),
        ("\n   \n{\"id\":8,\"request\":\"publish-list\"}", r#"{"id":8,"done":true,"count":0}"#),
    ] {
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
        let answer = next(&mut reader);
        assert!(answer.starts_with(want), "{line}: {answer}");
    }
    assert_eq!(bench.fake.sessions.lock().unwrap().len(), 3, "nothing was flushed by a misspelt filter");
    stream.write_all(&vec![b'x'; LONGEST_REQUEST]).unwrap();
    assert!(next(&mut reader).contains(r#""word":"too-long""#));
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "what follows a line without end cannot be understood");
}

#[test]
fn a_request_without_its_newline_at_the_end_is_answered() {
    let bench = Bench::with_sessions();
    let (mut stream, mut reader) = bench.raw();
    stream.write_all(br#"{"id":1,"request":"stats"}"#).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(next(&mut reader).contains(r#""dropped":{"no-mapping":3}"#));
    assert_eq!(next(&mut reader), r#"{"id":1,"done":true,"count":1}"#);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

fn note(number: usize) -> Event {
    Event {
        at: Time::from_secs(2),
        what: What::Note(Note::PortsLow(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), number)),
    }
}

fn packet(port: u16) -> Event {
    let flow = |source: (u8, u16)| Flow {
        protocol: Protocol::Udp,
        source: Endpoint::new(Ipv4Addr::new(10, 88, 0, source.0), source.1),
        destination: Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), 53),
    };
    let seen = PacketSeen {
        dropped: false,
        fate: "out",
        from: "tapnat0".into(),
        to: Some("eth0".into()),
        flow: Some(flow((2, port))),
        translated: Some(flow((99, 61_000))),
        length: 28,
        before: vec![0x45, 1],
        after: vec![0x45, 2],
    };
    Event { at: Time::from_secs(2), what: What::Packet(Box::new(seen)) }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not happen in 20 s");
}

#[test]
fn events_stream_until_the_next_request() {
    let bench = Bench::new(Fake::default());
    let (mut stream, mut reader) = bench.raw();
    stream.write_all(b"{\"id\":1,\"request\":\"events\",\"filter\":{\"inside\":\"10.88.0.2\"}}\n").unwrap();
    let feed = &bench.fake.feed;
    wait_for("the subscription", || feed.listeners(Kind::Opened) == 1);
    assert_eq!(feed.listeners(Kind::Packet), 0, "packets must be asked for");
    feed.push(Event { at: Time::ZERO, what: What::Opened(session(1, Protocol::Udp, 2, 53)) });
    feed.push(Event { at: Time::ZERO, what: What::Opened(session(2, Protocol::Udp, 3, 53)) });
    let flow = Flow {
        protocol: Protocol::Tcp,
        source: Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), 1),
        destination: Endpoint::new(Ipv4Addr::new(203, 0, 113, 1), 2),
    };
    feed.push(Event { at: Time::ZERO, what: What::Refused(flow, Refusal::NoMapping, None) });
    feed.push(note(5));
    assert!(next(&mut reader).contains(r#""event":"opened","session":{"id":1,"#));
    assert!(next(&mut reader).contains(r#""event":"note","note":"ports-low""#), "others were filtered out");
    stream.write_all(b"{\"id\":2,\"request\":\"publish-list\"}\n").unwrap();
    assert_eq!(next(&mut reader), r#"{"id":1,"done":true,"count":2}"#);
    assert_eq!(next(&mut reader), r#"{"id":2,"done":true,"count":0}"#);
    assert_eq!(feed.listeners(Kind::Opened), 0);
}

#[test]
fn as_many_packets_as_were_asked_for() {
    let bench = Bench::new(Fake::default());
    let mut client = bench.client();
    let filter = Filter { inside: "10.88.0.2:7".parse().ok(), ..Filter::default() };
    let feed = bench.fake.feed.clone();
    let pusher = std::thread::spawn(move || {
        wait_for("the subscription", || feed.listeners(Kind::Packet) == 1);
        for port in [6, 7, 7, 7] {
            feed.push(packet(port));
        }
        assert_eq!(feed.listeners(Kind::Packet), 0, "two are enough");
    });
    let (bodies, count) = client.all(&Request::Events { kinds: None, packets: Some(2), filter }).unwrap();
    pusher.join().unwrap();
    assert_eq!((bodies.len(), count), (2, 2));
    let Body::Event(event) = &bodies[0] else { panic!("{bodies:?}") };
    let WhatRecord::Packet(packet) = &event.what else { panic!("{event:?}") };
    assert_eq!((packet.before.as_str(), packet.after.as_str()), ("4501", "4502"));
}

#[test]
fn a_slow_reader_loses_events_and_stops_nobody() {
    let bench = Bench::new(Fake::default());
    let (mut stream, mut reader) = bench.raw();
    stream.write_all(b"{\"id\":1,\"request\":\"events\"}\n").unwrap();
    let feed = &bench.fake.feed;
    wait_for("the subscription", || feed.listeners(Kind::Note) == 1);
    const PUSHED: u64 = 60_000;
    for number in 0..PUSHED {
        feed.push(note(number as usize));
    }
    assert_eq!(bench.client().all(&Request::PublishList {}).unwrap().1, 0, "others are served");
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < PUSHED {
        let line = next(&mut reader);
        match line.strip_prefix(r#"{"id":1,"lost":"#) {
            Some(count) => lost += count.trim_end_matches('}').parse::<u64>().unwrap(),
            None => seen += 1,
        }
    }
    assert_eq!(seen + lost, PUSHED, "every event was told of or counted");
    assert!(lost > 0 && seen >= 4096, "{seen} seen, {lost} lost");
}

#[test]
fn a_subscriber_that_hangs_up_is_forgotten() {
    let bench = Bench::new(Fake::default());
    let (mut stream, reader) = bench.raw();
    stream.write_all(b"{\"id\":1,\"request\":\"events\"}\n").unwrap();
    wait_for("the subscription", || bench.fake.feed.listeners(Kind::Note) == 1);
    // As `nc -N` does: no more requests, but it still listens.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    bench.fake.feed.push(note(1));
    let mut reader = reader;
    assert!(next(&mut reader).contains("ports-low"));
    drop((stream, reader));
    wait_for("the end of the subscription", || bench.fake.feed.listeners(Kind::Note) == 0);
}

#[test]
fn there_is_room_for_so_many_clients_and_then_for_others() {
    let bench = Bench::new(Fake::default());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| bench.client()).collect();
    match Client::connect(&bench.path()) {
        Err(ClientError::Refused(problem)) => assert_eq!(problem.word, "busy"),
        other => panic!("let in: {other:?}"),
    }
    assert_eq!(clients[CLIENTS - 1].all(&Request::PublishList {}).unwrap().1, 0);
    clients.truncate(1);
    wait_for("room", || Client::connect(&bench.path()).is_ok());
}

#[test]
fn a_gateway_that_is_gone_is_said_to_be() {
    let bench = Bench::new(Fake { gone: true, ..Fake::default() });
    let mut client = bench.client();
    assert_eq!(refused(client.all(&Request::Stats {})).0, "gone");
    assert_eq!(refused(client.all(&Request::PublishList {})).0, "gone");
}

#[test]
fn the_server_ends_cleanly_and_its_clients_see_it() {
    let mut bench = Bench::new(Fake { gone: true, ..Fake::default() });
    let mut streaming = bench.client();
    let (mut waiting, mut reader) = bench.raw();
    // This one waits for a sweep that no worker makes.
    waiting.write_all(b"{\"id\":1,\"request\":\"flows\"}\n").unwrap();
    let fake = Arc::clone(&bench.fake);
    let server = bench.server.take();
    let ender = std::thread::spawn(move || {
        wait_for("the subscription", || fake.feed.listeners(Kind::Note) == 1);
        // A socket that is closed with something unread in it is reset.
        wait_for("the question", || fake.board.wanted());
        drop(server);
    });
    let error = streaming.all(&Request::Events { kinds: None, packets: None, filter: Filter::default() });
    let told = matches!(error, Err(ClientError::Broken(..) | ClientError::Ended(..)));
    assert!(told, "{error:?}");
    assert_eq!(next(&mut reader), "");
    ender.join().unwrap();
    assert!(!bench.path().exists());
    let nobody = Client::connect(&bench.path()).unwrap_err().to_string();
    assert!(nobody.starts_with("no gateway answers at "), "{nobody}");
}
