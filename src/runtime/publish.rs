//! Port forwards: those of the settings at start, and what a changed set of them means for links.

use super::worker::Worker;
use crate::config::Settings;
use crate::gateway::{Command, Reply};
use anyhow::bail;

/// Makes the port forwards that the settings name.
///
/// # Errors
/// The first that cannot be made, and why.
pub fn publish_all(worker: &mut Worker, settings: &Settings) -> anyhow::Result<()> {
    let external = worker.gateway.config().nat.external.clone();
    for spec in &settings.publish {
        for (protocol, outside, inside) in spec.forwards(&external) {
            let command = Command::Publish { protocol, outside, inside };
            match worker.carry_out(command, worker.clock.now()) {
                Reply::NotPublished(why) => {
                    bail!("publish {spec}: {outside}: {why}; choose another port")
                }
                Reply::NotLeased(why) => {
                    bail!("publish {spec}: {why}; choose another port, or stop that program")
                }
                _ => {}
            }
        }
    }
    Ok(())
}
