//! The steps of the demo, each one chapter of the story.

use super::story::Story;
use crate::io::netlink::Netlink;
use crate::io::sys::netns::Netns;
use crate::lab::netns::{Lab, sysctl};
use crate::lab::product::Product;
use crate::lab::programs::counters::Counters;
use crate::lab::programs::icmp::{Answer, Ping};
use crate::lab::programs::rules::Tables;
use crate::lab::programs::{Server, dns, http, now, pattern};
use crate::lab::topology::{HOST, SERVERS};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a step may take.
const STEP: Duration = Duration::from_secs(5);
/// How long silence has to last before it is believed.
const SILENCE: Duration = Duration::from_secs(2);
/// Bytes of the download.
const DOWNLOAD: u64 = 16 << 20;
/// The name that the demo's DNS server knows.
const NAME: &str = "www.example.org";

/// The lab, its servers, and the program under demonstration.
#[derive(Debug)]
pub struct Stage {
    /// The network.
    pub lab: Lab,
    /// This very program.
    pub program: PathBuf,
    control: &'static str,
    servers: Vec<Server>,
    before: (i64, i64),
}

impl Stage {
    /// Starts the internet's servers.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn new(lab: Lab, program: PathBuf, control: &'static str) -> Result<Stage> {
        let internet = lab.host("internet");
        let zone = vec![(NAME.to_owned(), SERVERS[0])];
        let web = http::serve(internet, SocketAddrV4::new(SERVERS[0], 80)).context("start the web server")?;
        let names =
            dns::serve(internet, SocketAddrV4::new(SERVERS[1], 53), zone).context("start the DNS server")?;
        let mut stage = Stage { lab, program, control, servers: vec![web, names], before: (0, 0) };
        stage.before = stage.complaints()?;
        Ok(stage)
    }

    /// The host that the gateway runs on.
    pub fn host(&self) -> &Netns {
        self.lab.host("host")
    }

    /// What the host's own stack answered to packets that it knew nothing of.
    fn complaints(&self) -> Result<(i64, i64)> {
        let counters = Counters::read(self.host())?;
        Ok((counters.get("Tcp: OutRsts"), counters.get("Icmp: OutDestUnreachs")))
    }

    /// A command of this program that asks the running gateway.
    fn ask(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).args(["--control", self.control]).stdin(Stdio::null());
        command
    }
}

/// Chapter one: what there is.
pub fn network(story: &mut Story, root: bool) {
    story.heading("The network");
    story.text("red   10.88.0.2 ─┐");
    story.text("                 ├─ bridge ─ ? ─ host 203.0.113.1 ─── 203.0.113.254  internet");
    story.text("blue  10.88.0.3 ─┘                                    198.51.100.7   web server");
    story.text("                                                      198.51.100.8   DNS server");
    let how = if root { "of root's" } else { "in a user namespace, without root" };
    story
        .text(&format!("Four network namespaces {how}. The host forwards nothing (ip_forward = 0), and the"));
    story.text("internet has no route to 10.88.0.0/24. All of it ends with this command.");
}

/// Chapter two: nothing works yet.
///
/// # Errors
/// The kernel's word.
pub fn without_gateway(story: &mut Story, stage: &Stage) -> Result<()> {
    story.heading("Without the gateway");
    story.command("red", &format!("ping {}", SERVERS[0]));
    let answer = stage.lab.host("red").run(|| Ping::new(SERVERS[0], 1).send(SILENCE))??;
    let silent = !matches!(answer, Answer::Reply { .. });
    story.judge(silent, if silent { "no answer, as it should be" } else { "an answer, which should not be" });
    Ok(())
}

/// Chapter four: everything works.
///
/// # Errors
/// The kernel's word.
pub fn with_gateway(story: &mut Story, stage: &Stage) -> Result<()> {
    story.heading("With the gateway");
    for (number, name) in ["red", "blue"].into_iter().enumerate() {
        let container = stage.lab.host(name);
        story.command(name, &format!("ping {}", SERVERS[0]));
        let sequence = u16::try_from(number + 2).unwrap_or(2);
        match container.run(|| Ping::new(SERVERS[0], sequence).send(STEP))?? {
            Answer::Reply { from, ttl, took } => {
                let micros = took.as_micros();
                story.good(&format!("{from} answers, ttl {ttl}, {}.{:03} ms", micros / 1000, micros % 1000));
            }
            other => story.bad(&format!("{other:?}")),
        }
        download(story, name, container)?;
        lookup(story, name, container)?;
    }
    Ok(())
}

fn download(story: &mut Story, name: &str, container: &Netns) -> Result<()> {
    let server = SocketAddrV4::new(SERVERS[0], 80);
    story.command(name, &format!("GET http://{}/bytes/{DOWNLOAD}", SERVERS[0]));
    let fetch = || {
        let mut client = http::Client::connect(server, STEP)?;
        let own = client.local_addr()?;
        let seen = client.get("/")?;
        let start = now();
        let page = client.get(&format!("/bytes/{DOWNLOAD}"))?;
        Ok::<_, std::io::Error>((own, seen, page, now() - start))
    };
    match container.run(fetch)? {
        Ok((own, seen, page, took)) => {
            let right = page.length == DOWNLOAD && page.sum == pattern::expected(DOWNLOAD, DOWNLOAD);
            let rate = DOWNLOAD as f64 / took.as_secs_f64() / f64::from(1 << 20);
            let verdict = if right { "every byte right" } else { "not the bytes that were sent" };
            story.judge(right, &format!("{} MiB at {rate:.0} MiB/s, {verdict}", DOWNLOAD >> 20));
            let greeting = String::from_utf8_lossy(&seen.body);
            let seen = greeting.trim().trim_start_matches("hello ");
            let outside = seen.parse().is_ok_and(|seen: SocketAddrV4| *seen.ip() == HOST);
            story.judge(outside, &format!("the client is {own}; the server sees {seen}"));
        }
        Err(error) => story.bad(&error.to_string()),
    }
    Ok(())
}

fn lookup(story: &mut Story, name: &str, container: &Netns) -> Result<()> {
    story.command(name, &format!("resolve {NAME}, asking {}", SERVERS[1]));
    match container.run(|| dns::resolve(SocketAddrV4::new(SERVERS[1], 53), NAME, STEP))? {
        Ok(address) => {
            let words = address.map_or_else(|| "no such name".to_owned(), |ip: Ipv4Addr| ip.to_string());
            story.judge(address == Some(SERVERS[0]), &words);
        }
        Err(error) => story.bad(&error.to_string()),
    }
    Ok(())
}

/// Chapter five: what the gateway remembers.
///
/// # Errors
/// If the program could not be started.
pub fn table(story: &mut Story, stage: &Stage) -> Result<()> {
    story.heading("What the gateway remembers");
    story.command("host", "tapnat flows");
    let output = stage.ask(&["flows"]).output().context("start tapnat flows")?;
    told(story, &output);
    Ok(())
}

/// Chapter six: one packet, with the bytes that differ marked.
///
/// # Errors
/// If the program could not be started.
pub fn one_packet(story: &mut Story, stage: &Stage) -> Result<()> {
    story.heading("One packet, before and after");
    story.command("host", "tapnat events --packets 1");
    let mut command = stage.ask(&["events", "--packets", "1"]);
    if story.coloured() {
        // It prints into a pipe, and the pipe ends on a terminal.
        command.env("CLICOLOR_FORCE", "1");
    }
    let mut watching =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start tapnat events")?;
    // When it listens is not for us to see, so a packet goes out every now and then until it has one.
    let deadline = now() + STEP;
    let mut sequence = 100;
    while now() < deadline && watching.try_wait()?.is_none() {
        sequence += 1;
        stage.lab.host("red").run(|| Ping::new(SERVERS[0], sequence).send(Duration::from_millis(200)))??;
        std::thread::sleep(Duration::from_millis(100));
    }
    let in_time = watching.try_wait()?.is_some();
    if !in_time {
        watching.kill()?;
    }
    let output = watching.wait_with_output()?;
    if in_time {
        told(story, &output);
    } else {
        story.bad("no packet was shown in time");
    }
    Ok(())
}

fn told(story: &mut Story, output: &std::process::Output) {
    story.block(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || output.stdout.is_empty() {
        story.bad(&format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
}

/// Chapter seven: nothing else did it.
///
/// # Errors
/// The kernel's word.
pub fn no_rules(story: &mut Story, stage: &Stage) -> Result<()> {
    story.heading("Nothing else did it");
    story.command("host", "cat /proc/sys/net/ipv4/ip_forward");
    let forward = stage.host().run(|| sysctl("net/ipv4/ip_forward"))??;
    story.judge(forward == "0", &forward);
    story.command("host", "list the tables of nftables and iptables");
    let tables = stage.host().run(Tables::read)?.context("ask the kernel for its filter tables")?;
    let nftables = match tables.nftables {
        Some(count) => format!("{count} nftables tables"),
        None => "no nftables in this kernel".to_owned(),
    };
    let iptables = match tables.iptables.as_slice() {
        [] => "no iptables table".to_owned(),
        names => format!("iptables tables: {}", names.join(", ")),
    };
    story.judge(tables.none(), &format!("{nftables}, {iptables}"));
    story.command("host", "grep -e OutRsts -e OutDestUnreachs /proc/net/snmp");
    let complaints = stage.complaints()?;
    let (resets, unreachables) = (complaints.0 - stage.before.0, complaints.1 - stage.before.1);
    story.judge(
        (resets, unreachables) == (0, 0),
        &format!("the host's own stack sent {resets} resets and {unreachables} unreachables: it saw nothing to object to"),
    );
    Ok(())
}

/// The last chapter: it goes as it came.
///
/// # Errors
/// The kernel's word.
pub fn end(story: &mut Story, stage: &mut Stage, gateway: &mut Product) -> Result<()> {
    story.heading("The end");
    story.command("host", &format!("kill {}", gateway.id()));
    match gateway.terminate(STEP)? {
        Some(status) if status.success() => story.good("the gateway ended, exit code 0"),
        Some(status) => story.bad(&format!("the gateway ended: {status}; it said: {}", gateway.said())),
        None => story.bad("the gateway did not end"),
    }
    let left = stage.host().run(|| Netlink::open()?.link(super::TAP))??;
    story.judge(left.is_none(), if left.is_none() { "its TAP is gone" } else { "its TAP is still there" });
    stage.servers.clear();
    Ok(())
}
