//! One byte to and fro on one connection: how long an answer takes.

use super::{CONNECT, Place, joined, listen, warm_up};
use crate::metric::Metric;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use tapnat::lab::programs::now;

/// How long one answer may take before the load fails.
const ANSWER: Duration = Duration::from_secs(3);
/// Round trips that are measured at most.
const MOST: usize = 2_000_000;

/// Median and tail of the round trip.
pub fn run(place: &Place<'_>, length: Duration) -> io::Result<Vec<(Metric, f64)>> {
    let (listener, address) = listen(place)?;
    let echo = || {
        let mut stream = listener.accept()?.0;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        Ok(())
    };
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let (begin, warm, mut byte, mut trips) = (now(), warm_up(length), [7], Vec::new());
        while begin.elapsed() < warm + length && trips.len() < MOST {
            let sent = now();
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            if sent - begin >= warm {
                trips.push(sent.elapsed());
            }
        }
        Ok(trips)
    };
    let mut trips: Vec<Duration> = thread::scope(|scope| {
        let server = scope.spawn(|| place.server.run(echo)?);
        let client = scope.spawn(|| place.client.run(ask)?);
        let (trips, served): (io::Result<_>, io::Result<()>) = (joined(client), joined(server));
        trips.and_then(|trips| served.map(|()| trips))
    })?;
    trips.sort_unstable();
    let at = |hundredths: usize| {
        let trip = trips.get(trips.len() * hundredths / 100).ok_or(io::ErrorKind::TimedOut)?;
        io::Result::Ok(trip.as_secs_f64() * 1e6)
    };
    Ok(vec![(Metric::TripMedian, at(50)?), (Metric::TripTail, at(99)?)])
}
