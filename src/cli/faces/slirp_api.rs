//! The API socket of `slirp4netns`: one JSON request a connection, which makes, lists and removes port
//! forwards. Answers and errors are the original's, letter for letter; beyond it, addresses may be of
//! IPv6, and `host_port` 0 has a port chosen, which the answer then names.

use super::forwards::{Forward, Forwarder, free_port};
use crate::flow::Protocol;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// A request must be shorter, in bytes.
const LONGEST: usize = 4096;
/// How long a client may take to ask, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Ports that are tried where one is to be chosen.
const TRIES: usize = 16;

/// A forward, as it is listed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Entry {
    id: u64,
    proto: &'static str,
    host_addr: IpAddr,
    host_port: u16,
    guest_addr: IpAddr,
    guest_port: u16,
}

/// The forwards made by one socket.
#[derive(Debug)]
pub struct Api<F> {
    forwarder: F,
    /// Who is meant where nobody is named, by family.
    guests: Vec<IpAddr>,
    made: Vec<(u64, Forward)>,
    last: u64,
}

impl<F: Forwarder> Api<F> {
    /// No forwards yet. `guests` are those meant where none is named, one of each family at most.
    pub fn new(forwarder: F, guests: Vec<IpAddr>) -> Self {
        Api { forwarder, guests, made: Vec::new(), last: 0 }
    }

    /// Answers one request.
    pub fn answer(&mut self, request: &[u8]) -> String {
        let answer =
            if request.len() >= LONGEST { Err("too large message") } else { self.carry_out(request) };
        answer.unwrap_or_else(|why| json!({"error": {"desc": format!("bad request: {why}")}}).to_string())
    }

    fn carry_out(&mut self, request: &[u8]) -> Result<String, &'static str> {
        let first = serde_json::Deserializer::from_slice(request).into_iter::<Value>().next();
        let Some(Ok(value)) = first else { return Err("cannot parse JSON") };
        let object = value.as_object().ok_or("json_object() failed")?;
        let arguments = object.get("arguments").unwrap_or(&Value::Null);
        match object.get("execute").and_then(Value::as_str) {
            None => Err("no execute found"),
            Some("add_hostfwd") => self.add(arguments),
            Some("list_hostfwd") => Ok(self.list()),
            Some("remove_hostfwd") => self.remove(arguments),
            Some(_) => Err("unknown execute"),
        }
    }

    fn add(&mut self, arguments: &Value) -> Result<String, &'static str> {
        let protocol = match arguments.get("proto").and_then(Value::as_str) {
            Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            _ => return Err("add_hostfwd: bad arguments.proto"),
        };
        let text = |key: &str| arguments.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let host = match text("host_addr") {
            None => Ipv4Addr::UNSPECIFIED.into(),
            Some(text) => text.parse::<IpAddr>().map_err(|_| "add_hostfwd: bad arguments.host_addr")?,
        };
        let host_port = port(arguments, "host_port").ok_or("add_hostfwd: bad arguments.host_port")?;
        let wrong = "add_hostfwd: bad arguments.guest_addr";
        let family = |guest: &&IpAddr| guest.is_ipv4() == host.is_ipv4();
        if !self.guests.iter().any(|guest| family(&guest)) {
            return Err("add_hostfwd: bad arguments.host_addr");
        }
        let guest = match text("guest_addr") {
            None => self.guests.iter().find(family).copied(),
            Some(text) => text.parse::<IpAddr>().ok().filter(|guest| family(&guest)),
        };
        let guest = guest.filter(|guest| !guest.is_unspecified()).ok_or(wrong)?;
        let guest_port = port(arguments, "guest_port").filter(|port| *port > 0);
        let guest_port = guest_port.ok_or("add_hostfwd: bad arguments.guest_port")?;
        let guest = SocketAddr::new(guest, guest_port);
        let wanted = Forward { protocol, host: SocketAddr::new(host, host_port), guest };
        let made = self.make(wanted).map_err(|why| {
            tracing::warn!("a port forward that was asked for cannot be made: {why}");
            "add_hostfwd: slirp_add_hostfwd failed"
        })?;
        self.last += 1;
        self.made.push((self.last, made));
        let id = self.last;
        Ok(match host_port {
            0 => format!(r#"{{"return":{{"id":{id},"host_port":{}}}}}"#, made.host.port()),
            _ => format!(r#"{{"return":{{"id":{id}}}}}"#),
        })
    }

    /// Makes a forward, with a port that is chosen if none is named.
    fn make(&mut self, wanted: Forward) -> Result<Forward, String> {
        if self.made.iter().any(|(_, made)| (made.protocol, made.host) == (wanted.protocol, wanted.host)) {
            return Err(format!("{} {} is forwarded already", wanted.protocol, wanted.host));
        }
        if wanted.host.port() != 0 {
            return self.forwarder.add(wanted).map(|()| wanted);
        }
        let mut last = String::new();
        for _ in 0..TRIES {
            let ip = wanted.host.ip();
            let port = free_port(wanted.protocol, ip).map_err(|error| format!("{ip}: {error}"))?;
            let forward = Forward { host: SocketAddr::new(ip, port), ..wanted };
            match self.forwarder.add(forward) {
                Ok(()) => return Ok(forward),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    fn list(&self) -> String {
        let entry = |(id, forward): &(u64, Forward)| Entry {
            id: *id,
            proto: if forward.protocol == Protocol::Udp { "udp" } else { "tcp" },
            host_addr: forward.host.ip(),
            host_port: forward.host.port(),
            guest_addr: forward.guest.ip(),
            guest_port: forward.guest.port(),
        };
        let entries: Vec<Entry> = self.made.iter().map(entry).collect();
        // Numbers and addresses are always representable.
        let list = serde_json::to_string(&entries).unwrap_or_else(|_| "[]".to_owned());
        format!(r#"{{"entries":{list}}}"#)
    }

    fn remove(&mut self, arguments: &Value) -> Result<String, &'static str> {
        let id = arguments.get("id").and_then(Value::as_f64);
        let place = self.made.iter().position(|(made, _)| id.is_some_and(|id| *made as f64 == id));
        let place = place.ok_or("remove_hostfwd: bad arguments.id")?;
        let (_, forward) = self.made[place];
        self.forwarder.remove(forward).map_err(|why| {
            tracing::warn!("a port forward cannot be removed: {why}");
            "remove_hostfwd: slirp_remove_hostfwd failed"
        })?;
        self.made.remove(place);
        Ok(r#"{"return":{}}"#.to_owned())
    }
}

/// A port of the arguments; `None` if it is missing or no port. 0 is one.
fn port(arguments: &Value, key: &str) -> Option<u16> {
    let number = arguments.get(key)?.as_f64()?;
    (number.fract() == 0.0 && (0.0..=65535.0).contains(&number)).then_some(number as u16)
}

/// Serves clients, one after the other, until the socket fails.
pub fn serve<F: Forwarder>(listener: &UnixListener, mut api: Api<F>) {
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                // A client that went away has only itself to blame.
                let _ = converse(client, &mut api);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!("API socket: {error}");
                // Short of descriptors for a while, perhaps.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn converse<F: Forwarder>(mut client: UnixStream, api: &mut Api<F>) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::with_capacity(LONGEST);
    let mut bytes = [0; LONGEST];
    while request.len() < LONGEST {
        let count = client.read(&mut bytes[..LONGEST - request.len()])?;
        request.extend_from_slice(&bytes[..count]);
        if count == 0 || is_whole(&request) {
            break;
        }
    }
    client.write_all(api.answer(&request).as_bytes())?;
    client.shutdown(std::net::Shutdown::Both)
}

/// Whether a request needs no more bytes: it is a value, or can become none.
fn is_whole(request: &[u8]) -> bool {
    match serde_json::Deserializer::from_slice(request).into_iter::<Value>().next() {
        None => false,
        Some(Ok(_)) => true,
        Some(Err(error)) => !error.is_eof(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses what is below port 1024, and the removal of what it has not made.
    #[derive(Default)]
    struct Fake(Vec<Forward>);

    impl Forwarder for Fake {
        fn add(&mut self, forward: Forward) -> Result<(), String> {
            if forward.host.port() < 1024 {
                return Err("permission denied".to_owned());
            }
            self.0.push(forward);
            Ok(())
        }

        fn remove(&mut self, forward: Forward) -> Result<(), String> {
            let place = self.0.iter().position(|made| *made == forward).ok_or("not there")?;
            self.0.remove(place);
            Ok(())
        }
    }

    fn api() -> Api<Fake> {
        Api::new(Fake::default(), vec!["10.0.2.100".parse().unwrap(), "fd00::64".parse().unwrap()])
    }

    fn add(arguments: &str) -> String {
        format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#)
    }

    #[test]
    fn forwards_are_made_listed_and_removed() {
        let mut api = api();
        let full = r#""proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80"#;
        assert_eq!(api.answer(add(full).as_bytes()), r#"{"return":{"id":1}}"#);
        let short = r#""proto":"udp","host_port":5353,"guest_addr":"","guest_port":53"#;
        assert_eq!(api.answer(format!("{}\n", add(short)).as_bytes()), r#"{"return":{"id":2}}"#);
        let six = r#""proto":"tcp","host_addr":"::","host_port":8080,"guest_port":80"#;
        assert_eq!(api.answer(add(six).as_bytes()), r#"{"return":{"id":3}}"#);
        let list = api.answer(br#"{"execute":"list_hostfwd"}"#);
        let want = r#"{"entries":[{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80},{"id":2,"proto":"udp","host_addr":"0.0.0.0","host_port":5353,"guest_addr":"10.0.2.100","guest_port":53},{"id":3,"proto":"tcp","host_addr":"::","host_port":8080,"guest_addr":"fd00::64","guest_port":80}]}"#;
        assert_eq!(list, want);
        let remove = br#"{"execute":"remove_hostfwd","arguments":{"id":2}}"#;
        assert_eq!(api.answer(remove), r#"{"return":{}}"#);
        assert!(api.answer(remove).contains("remove_hostfwd: bad arguments.id"));
        assert_eq!(api.answer(add(short).as_bytes()), r#"{"return":{"id":4}}"#, "numbers are not used again");
        let free = r#""proto":"tcp","host_addr":"127.0.0.1","host_port":0,"guest_port":80"#;
        let chosen: Value = serde_json::from_str(&api.answer(add(free).as_bytes())).unwrap();
        assert_eq!(chosen["return"]["host_port"], api.forwarder.0.last().unwrap().host.port());
    }

    #[test]
    fn errors_are_the_originals() {
        let mut api = api();
        let mut said = |request: &str| {
            let answer: Value = serde_json::from_str(&api.answer(request.as_bytes())).unwrap();
            answer["error"]["desc"].as_str().unwrap().strip_prefix("bad request: ").unwrap().to_owned()
        };
        for (request, want) in [
            ("", "cannot parse JSON"),
            ("{", "cannot parse JSON"),
            ("[]", "json_object() failed"),
            ("{}", "no execute found"),
            (r#"{"execute":7}"#, "no execute found"),
            (r#"{"execute":"foo"}"#, "unknown execute"),
            (&" ".repeat(4096), "too large message"),
            (&add(""), "add_hostfwd: bad arguments.proto"),
            (&add(r#""proto":"sctp""#), "add_hostfwd: bad arguments.proto"),
            (&add(r#""proto":"tcp","host_addr":"host""#), "add_hostfwd: bad arguments.host_addr"),
            (&add(r#""proto":"tcp""#), "add_hostfwd: bad arguments.host_port"),
            (&add(r#""proto":"tcp","host_port":65536"#), "add_hostfwd: bad arguments.host_port"),
            (&add(r#""proto":"tcp","host_port":80.5"#), "add_hostfwd: bad arguments.host_port"),
            (
                &add(r#""proto":"tcp","host_port":8080,"guest_addr":"x""#),
                "add_hostfwd: bad arguments.guest_addr",
            ),
            (
                &add(r#""proto":"tcp","host_port":8080,"guest_addr":"::1""#),
                "add_hostfwd: bad arguments.guest_addr",
            ),
            (&add(r#""proto":"tcp","host_port":8080"#), "add_hostfwd: bad arguments.guest_port"),
            (
                &add(r#""proto":"tcp","host_port":8080,"guest_port":0"#),
                "add_hostfwd: bad arguments.guest_port",
            ),
            (
                &add(r#""proto":"tcp","host_port":80,"guest_port":80"#),
                "add_hostfwd: slirp_add_hostfwd failed",
            ),
            (r#"{"execute":"remove_hostfwd"}"#, "remove_hostfwd: bad arguments.id"),
        ] {
            assert_eq!(said(request), want, "{request}");
        }
        api.answer(add(r#""proto":"tcp","host_port":8080,"guest_port":80"#).as_bytes());
        api.forwarder.0.clear();
        let answer = api.answer(br#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#);
        assert!(answer.contains("slirp_remove_hostfwd failed"), "{answer}");
    }

    #[test]
    fn a_client_is_answered_at_once_and_others_do_not_wait_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || serve(&listener, api()));
        let ask = |pieces: &[&str], end: bool| {
            let mut client = UnixStream::connect(&path).unwrap();
            for piece in pieces {
                client.write_all(piece.as_bytes()).unwrap();
            }
            if end {
                client.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        };
        assert_eq!(ask(&[r#"{"execute":"list_"#, r#"hostfwd"}"#], false), r#"{"entries":[]}"#);
        assert!(ask(&[""], true).contains("cannot parse JSON"));
        // Somebody who says nothing holds up the next one for a while only.
        let _silent = UnixStream::connect(&path).unwrap();
        assert_eq!(ask(&[r#"{"execute":"list_hostfwd"}"#], true), r#"{"entries":[]}"#);
    }
}
