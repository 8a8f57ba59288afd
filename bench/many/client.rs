//! The client: this program, started by `tapnat exec` in a namespace behind the gateway. It says what
//! it has measured as one line of JSON.

use crate::crowd::{Job, Watched, more_descriptors};
use crate::place::Said;
use crate::transfer;
use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use tapnat::lab::programs::now;

/// The first word of the client's command line.
pub const WORD: &str = "client";

/// How long one connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// What is sent on each connection that is held, and how often.
const ECHO: usize = 8192;
const ECHOES: u8 = 3;

/// Does what the words say.
pub fn main(words: impl Iterator<Item = String>) -> ExitCode {
    more_descriptors();
    let words: Vec<String> = words.collect();
    match run(&words) {
        Ok(said) => {
            println!("{}", serde_json::to_string(&said).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> io::Result<Said> {
    let server: SocketAddr = word(words, 1)?;
    match words.first().map(String::as_str) {
        Some("up") => {
            // The server ends it.
            Watched::new(connect(server, word(words, 2)?)?, Job::Write).until_closed(|| ())?;
            Ok(Said::default())
        }
        Some("down") => {
            let seconds: f64 = word(words, 3)?;
            let streams = connect(server, word(words, 2)?)?;
            let bytes = Watched::new(streams, Job::Read).during(Duration::from_secs_f64(seconds), || ())?;
            Ok(Said { bytes, ..Said::default() })
        }
        Some("hold") => hold(connect(server, word(words, 2)?)?),
        Some("get") => timed(server, |stream| transfer::take(stream, word(words, 2)?)),
        Some("put") => timed(server, |stream| transfer::send(stream, word(words, 2)?)),
        _ => Err(io::Error::other("this is for the program itself")),
    }
}

fn word<T: FromStr>(words: &[String], at: usize) -> io::Result<T> {
    let word = words.get(at).and_then(|word| word.parse().ok());
    word.ok_or_else(|| io::Error::other(format!("word {at} of {words:?} is wrong")))
}

fn connect(server: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| TcpStream::connect_timeout(&server, CONNECT)).collect()
}

/// Has bytes sent back on every connection, says so, and holds them until it is told to end.
fn hold(mut streams: Vec<TcpStream>) -> io::Result<Said> {
    for round in 0..ECHOES {
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.set_read_timeout(Some(CONNECT))?;
            stream.write_all(&[number as u8 ^ round; ECHO])?;
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut answer = [0; ECHO];
            stream.read_exact(&mut answer)?;
            if answer != [number as u8 ^ round; ECHO] {
                return Err(io::Error::other(format!("connection {number} got another one's bytes")));
            }
        }
    }
    println!("held");
    io::stdout().flush()?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(Said::default())
}

fn timed(server: SocketAddr, go: impl FnOnce(&mut TcpStream) -> io::Result<String>) -> io::Result<Said> {
    let mut stream = TcpStream::connect_timeout(&server, CONNECT)?;
    let start = now();
    let hash = go(&mut stream)?;
    Ok(Said { hash, seconds: start.elapsed().as_secs_f64(), ..Said::default() })
}
