//! Messages with descriptors, between the gateway and its helper: JSON over a socket that keeps the
//! borders of messages.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest message, in bytes.
const LONGEST: usize = 64 * 1024;
/// Descriptors that a message may carry.
const DESCRIPTORS: usize = 4;

/// One end of a conversation.
#[derive(Debug)]
pub struct Talk {
    socket: OwnedFd,
}

impl Talk {
    /// Both ends: ours, and the descriptor of the other. Neither is inherited by itself.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn pair() -> io::Result<(Talk, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Talk { socket: ours }, theirs))
    }

    /// The end of which one has the descriptor.
    pub fn on(socket: OwnedFd) -> Talk {
        Talk { socket }
    }

    /// Its socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `InvalidInput` if it is too long; the kernel's word, `EPIPE` if nobody listens.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LONGEST || descriptors.len() > DESCRIPTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message and its descriptors, which are not inherited.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other end is closed; `InvalidData` if it makes no sense; the kernel's
    /// word.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut bytes = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            let parts = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // Who ended without reading resets the connection.
                Err(rustix::io::Errno::CONNRESET) => return Err(io::ErrorKind::UnexpectedEof.into()),
                received => break received?.bytes,
            }
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors = descriptors.flatten().collect();
        Ok((serde_json::from_slice(&bytes[..length])?, descriptors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn messages_carry_descriptors_and_the_end_is_told() {
        let (ours, theirs) = Talk::pair().unwrap();
        let theirs = Talk::on(theirs);
        let (read, write) = io::pipe().unwrap();
        ours.send(&("order", 7), &[write.as_fd()]).unwrap();
        drop(write);
        let ((word, number), descriptors) = theirs.receive::<(String, i32)>().unwrap();
        assert_eq!((word.as_str(), number, descriptors.len()), ("order", 7, 1));
        drop(descriptors);
        assert_eq!(File::from(OwnedFd::from(read)).read(&mut [0]).unwrap(), 0);
        let long = ours.send(&"x".repeat(LONGEST), &[]);
        assert_eq!(long.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        ours.send(&"no number", &[]).unwrap();
        assert!(theirs.receive::<i32>().is_err());
        drop(ours);
        assert_eq!(theirs.receive::<i32>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
