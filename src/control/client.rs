//! The client of the control socket, for the verbs of the command line.

use super::protocol::{Answer, Body, Greeting, LONGEST_REQUEST, PROTOCOL, Problem, Request};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The longest line a client takes from a server, in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no gateway answers at {0}: {1}; start one with `tapnat run`, or give its --name or --control")]
    NotThere(PathBuf, io::Error),
    /// It is not for this user.
    #[error("the gateway at {0} is another user's; run this as that user or as root")]
    Forbidden(PathBuf),
    /// The connection broke.
    #[error("the gateway at {0} hung up: {1}; see its log")]
    Broken(PathBuf, io::Error),
    /// The connection ended, and nobody is there any more.
    #[error("the gateway at {0} has ended")]
    Ended(PathBuf),
    /// What is there is no gateway of ours, or one of another time.
    #[error(
        "{0} does not speak protocol {PROTOCOL} of tapnat: {1}; use the tapnat that the gateway was started with"
    )]
    Foreign(PathBuf, String),
    /// No gateway takes a request of so many bytes.
    #[error(
        "the request has {0} bytes, and a gateway takes {LONGEST_REQUEST} at most; leave out what is not needed, such as comments of a file"
    )]
    TooLong(usize),
    /// It could not be done.
    #[error(transparent)]
    Refused(#[from] Problem),
}

impl ClientError {
    fn connecting(path: &Path, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(path.to_owned()),
            _ => ClientError::NotThere(path.to_owned(), error),
        }
    }
}

/// A connection to a gateway.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    greeting: Greeting,
    last_id: u64,
}

impl Client {
    /// Connects to the gateway at `path`.
    ///
    /// # Errors
    /// Nobody, or somebody else, is there.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| ClientError::connecting(path, error))?;
        let greeting = Greeting { tapnat: String::new(), protocol: 0, name: String::new(), pid: 0 };
        let mut client =
            Client { path: path.to_owned(), stream: BufReader::new(stream), greeting, last_id: 0 };
        let line = client.line()?;
        client.greeting = match (serde_json::from_slice(&line), serde_json::from_slice::<Answer>(&line)) {
            (Ok(greeting), _) => greeting,
            (Err(_), Ok(Answer { body: Body::Error(problem), .. })) => return Err(problem.into()),
            (Err(error), _) => return Err(ClientError::Foreign(client.path, error.to_string())),
        };
        match client.greeting.protocol {
            PROTOCOL => Ok(client),
            other => Err(ClientError::Foreign(client.path, format!("it speaks protocol {other}"))),
        }
    }

    /// What the gateway said first.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Asks; the answer's lines come from the iterator, which ends with the answer.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn ask(&mut self, request: &Request) -> Result<Answers<'_>, ClientError> {
        self.last_id += 1;
        let line =
            numbered(self.last_id, request).map_err(|error| ClientError::Broken(self.path.clone(), error))?;
        if line.len() > LONGEST_REQUEST {
            return Err(ClientError::TooLong(line.len()));
        }
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(|error| ClientError::Broken(self.path.clone(), error))?;
        Ok(Answers { id: self.last_id, client: self, count: None })
    }

    /// Asks, and gathers the lines of an answer that ends, and its count.
    ///
    /// # Errors
    /// The connection is broken, or it could not be done.
    pub fn all(&mut self, request: &Request) -> Result<(Vec<Body>, u64), ClientError> {
        let mut answers = self.ask(request)?;
        let bodies = answers.by_ref().collect::<Result<Vec<Body>, ClientError>>()?;
        Ok((bodies, answers.count.unwrap_or(0)))
    }

    fn line(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        let broken = |error: io::Error| match UnixStream::connect(&self.path) {
            Ok(_) => ClientError::Broken(self.path.clone(), error),
            Err(_) => ClientError::Ended(self.path.clone()),
        };
        (&mut self.stream).take(LONGEST_ANSWER).read_until(b'\n', &mut line).map_err(broken)?;
        match line.last() {
            Some(b'\n') => Ok(line),
            Some(_) if line.len() as u64 == LONGEST_ANSWER => {
                Err(ClientError::Foreign(self.path.clone(), "a line without end".to_owned()))
            }
            _ => Err(broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// A request as a line, with its id.
fn numbered(id: u64, request: &Request) -> io::Result<Vec<u8>> {
    let mut value = serde_json::to_value(request)?;
    value["id"] = id.into();
    let mut line = serde_json::to_vec(&value)?;
    line.push(b'\n');
    Ok(line)
}

/// The lines of an answer.
#[derive(Debug)]
pub struct Answers<'a> {
    client: &'a mut Client,
    id: u64,
    count: Option<u64>,
}

impl Iterator for Answers<'_> {
    type Item = Result<Body, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.count.is_none() {
            let line = match self.client.line() {
                Ok(line) => line,
                Err(error) => {
                    self.count = Some(0);
                    return Some(Err(error));
                }
            };
            let answer: Answer = match serde_json::from_slice(&line) {
                Ok(answer) => answer,
                Err(error) => {
                    self.count = Some(0);
                    return Some(Err(ClientError::Foreign(self.client.path.clone(), error.to_string())));
                }
            };
            if answer.id.is_some_and(|id| id != self.id) {
                // The rest of a stream that this request has ended.
                continue;
            }
            match answer.body {
                Body::Done(_) => self.count = Some(answer.count.unwrap_or(0)),
                Body::Error(problem) => {
                    self.count = Some(0);
                    return Some(Err(problem.into()));
                }
                body => return Some(Ok(body)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_may_not_connect_is_told_so_and_not_to_start_another() {
        let told = |kind| ClientError::connecting(Path::new("/run/g"), io::Error::from(kind)).to_string();
        let forbidden = "the gateway at /run/g is another user's; run this as that user or as root";
        assert_eq!(told(io::ErrorKind::PermissionDenied), forbidden);
        assert!(told(io::ErrorKind::NotFound).starts_with("no gateway answers at /run/g: "));
    }

    #[test]
    fn a_gateway_that_has_ended_is_told_from_one_that_hangs_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gw.sock");
        for stays in [true, false] {
            let listener = UnixListener::bind(&path).unwrap();
            let client = std::thread::spawn({
                let path = path.clone();
                move || {
                    let mut client = Client::connect(&path).unwrap();
                    client.all(&Request::Stats {}).unwrap_err().to_string()
                }
            });
            let (mut stream, _) = listener.accept().unwrap();
            let greeting =
                Greeting { tapnat: String::new(), protocol: PROTOCOL, name: String::new(), pid: 1 };
            let line = serde_json::to_string(&greeting).unwrap() + "\n";
            stream.write_all(line.as_bytes()).unwrap();
            let listener = stays.then_some(listener);
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            drop(stream);
            let said = client.join().unwrap();
            let word = if stays { "hung up" } else { "has ended" };
            assert!(said.contains(word), "{said}");
            drop(listener);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
