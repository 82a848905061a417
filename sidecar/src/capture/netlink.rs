//! Netlink as nf_tables speaks it: messages of nested attributes, transactions that take effect whole, and the socket.
//! Layouts are those of linux/netlink.h and linux/netfilter/nfnetlink.h. What the messages mean is not known here.
//!
//! Written by hand because no small crate has what the rules need: netlink-packet-netfilter and netlink-bindings do not
//! know the `redir` expression, nftnl links a C library, rustables is GPL.

use std::{io, time::Duration};

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, sendto,
        socket_with, sockopt,
    },
};

/// How long the kernel may take to answer: an init step that hangs would hold the pod for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the kernel puts into one datagram of a dump.
const DATAGRAM_BYTES: usize = 64 << 10;

const MESSAGE_HEADER: usize = 16;
/// `struct nfgenmsg`, which follows the header of every netfilter message.
const FAMILY_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
const NESTED: u16 = 1 << 15;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are no part of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

/// `NLM_F_REQUEST`
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`
const ACK: u16 = 0x4;
/// `NLM_F_DUMP`
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`
pub const APPEND: u16 = 0x800;

/// What came between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("the netlink socket failed: {0}")]
    Socket(io::Error),
    /// The kernel says no.
    #[error("the kernel refuses {what}: {errno}")]
    Refused {
        /// Which message of the transaction.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// No answer in time.
    #[error("the kernel did not answer within {PATIENCE:?}")]
    Silent,
    /// Something that is no netlink message.
    #[error("the kernel's answer cannot be read")]
    Malformed,
}

/// Attributes, one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds bytes as they are.
    pub fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value)
    }

    /// Adds a text, with the NUL that the kernel wants behind it.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.push(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds a number; nf_tables has them in network byte order.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.push(kind, &value.to_be_bytes())
    }

    /// Adds attributes within an attribute.
    pub fn nested(self, kind: u16, inner: Self) -> Self {
        self.push(kind | NESTED, &inner.0)
    }

    fn push(mut self, kind: u16, value: &[u8]) -> Self {
        // What is written here is a few hundred bytes, and the set of ports is bounded by its caller.
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Whether these are all found in what the kernel shows, with the same values, each list as long as here. The kernel
    /// adds to what it was told: handles, counters, defaults.
    pub fn are_in(&self, found: &[u8]) -> bool {
        let mut rest: Vec<_> = read(found).collect();
        let mut told: Vec<u16> = Vec::new();
        let here = read(&self.0).all(|asked| {
            told.push(asked.kind);
            let place = rest.iter().position(|other| other.kind == asked.kind);
            place.is_some_and(|place| asked.is(&rest.remove(place)))
        });
        here && rest.iter().all(|left| !told.contains(&left.kind))
    }

    /// The bytes, for tests.
    #[cfg(test)]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An attribute that was read.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'b> {
    /// Its type.
    pub kind: u16,
    /// Whether its sender marked it as nested; the kernel does not.
    pub nested: bool,
    /// Its content.
    pub value: &'b [u8],
}

impl Attribute<'_> {
    fn is(&self, found: &Attribute<'_>) -> bool {
        if self.nested {
            Attributes(self.value.to_vec()).are_in(found.value)
        } else {
            self.value == found.value
        }
    }
}

/// The attributes in some bytes, up to the first that is malformed.
pub fn read(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute {
            kind: kind & TYPE_MASK,
            nested: kind & NESTED != 0,
            value,
        })
    })
}

/// The first attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    read(bytes)
        .find(|attribute| attribute.kind == kind)
        .map(|attribute| attribute.value)
}

/// A message to nf_tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// For errors.
    pub what: &'static str,
    /// `NFT_MSG_*`
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// `NFPROTO_*`
    pub family: u8,
    /// What it says.
    pub attributes: Attributes,
}

impl Message {
    fn encode(&self, into: &mut Vec<u8>, flags: u16, sequence: u32) {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | self.kind;
        let flags = REQUEST | self.flags | flags;
        encode(
            into,
            kind,
            flags,
            sequence,
            self.family,
            0,
            &self.attributes.0,
        );
    }
}

fn encode(
    into: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attributes: &[u8],
) {
    let length = (MESSAGE_HEADER + FAMILY_HEADER + attributes.len()) as u32;
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(flags.to_ne_bytes());
    into.extend(sequence.to_ne_bytes());
    into.extend(0u32.to_ne_bytes()); // to the kernel
    into.extend([family, 0]); // NFNETLINK_V0
    into.extend(resource.to_be_bytes());
    into.extend(attributes);
}

/// The bytes of a transaction. Its messages are numbered from `first` + 1; each asks to be acknowledged.
pub fn transaction(messages: &[Message], first: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame = |bytes: &mut Vec<u8>, kind, sequence| {
        encode(bytes, kind, REQUEST, sequence, 0, NFNL_SUBSYS_NFTABLES, &[]);
    };
    frame(&mut bytes, NFNL_MSG_BATCH_BEGIN, first);
    let mut sequence = first;
    for message in messages {
        sequence += 1;
        message.encode(&mut bytes, ACK, sequence);
    }
    frame(&mut bytes, NFNL_MSG_BATCH_END, sequence + 1);
    bytes
}

/// A message from the kernel.
struct Received<'b> {
    kind: u16,
    sequence: u32,
    payload: &'b [u8],
}

impl Received<'_> {
    /// The error it tells of; zero is an acknowledgement.
    fn errno(&self) -> Result<i32, Error> {
        let code = self.payload.get(..4).ok_or(Error::Malformed)?;
        let code: [u8; 4] = code.try_into().map_err(|_| Error::Malformed)?;
        Ok(i32::from_ne_bytes(code).saturating_neg())
    }
}

/// A connection to nf_tables of the network namespace that opened it.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one. That needs no right yet; every message does.
    pub fn open() -> Result<Self, Error> {
        let open = || -> rustix::io::Result<OwnedFd> {
            let fd = socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(netlink::NETFILTER),
            )?;
            bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
            Ok(fd)
        };
        Ok(Self {
            fd: open().map_err(socket)?,
            sequence: 1,
        })
    }

    /// Carries out all messages, or none.
    pub fn commit(&mut self, messages: &[Message]) -> Result<(), Error> {
        let first = self.sequence;
        self.sequence += messages.len() as u32 + 2;
        self.send(&transaction(messages, first))?;
        let mut left = messages.len();
        while left > 0 {
            self.receive(|received| {
                // The first message stands for the whole where the sender has no right at all.
                let place = received.sequence.checked_sub(first);
                if received.kind != NLMSG_ERROR
                    || place.is_none_or(|place| place as usize > messages.len() + 1)
                {
                    return Ok(());
                }
                match received.errno()? {
                    0 => left = left.saturating_sub(1),
                    code => {
                        let message =
                            place.and_then(|place| messages.get((place as usize).checked_sub(1)?));
                        return Err(Error::Refused {
                            what: message.map_or("the transaction", |message| message.what),
                            errno: Errno::from_raw_os_error(code),
                        });
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// All that the kernel has of a kind: the attributes of each.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Vec<u8>>, Error> {
        let sequence = self.sequence;
        self.sequence += 1;
        let mut bytes = Vec::new();
        message.encode(&mut bytes, DUMP, sequence);
        self.send(&bytes)?;
        let (mut found, mut done) = (Vec::new(), false);
        while !done {
            self.receive(|received| {
                match received.kind {
                    _ if received.sequence != sequence => {}
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => {
                        return Err(Error::Refused {
                            what: message.what,
                            errno: Errno::from_raw_os_error(received.errno()?),
                        });
                    }
                    _ => found.push(
                        received
                            .payload
                            .get(FAMILY_HEADER..)
                            .ok_or(Error::Malformed)?
                            .to_vec(),
                    ),
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        let sent = sendto(&self.fd, bytes, SendFlags::empty(), &kernel).map_err(socket)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(Error::Malformed)
        }
    }

    /// Waits for one datagram and looks at its messages.
    fn receive(&self, look: impl FnMut(Received<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let (length, _) = loop {
            match recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Error::Silent),
                received => break received.map_err(socket)?,
            }
        };
        split(&buffer[..length]).try_for_each(look)
    }
}

/// The messages of a datagram.
fn split(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(
                datagram.get(at..at + 4)?.try_into().ok()?,
            ))
        };
        let (length, sequence) = (word(0)? as usize, word(8)?);
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let payload = datagram.get(MESSAGE_HEADER..length)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Received {
            kind,
            sequence,
            payload,
        })
    })
}

fn socket(errno: Errno) -> Error {
    Error::Socket(errno.into())
}

/// Messages as people read them: for the golden of what is sent.
#[cfg(test)]
pub fn readable(bytes: &[u8]) -> String {
    use std::fmt::Write;

    fn attributes(bytes: &[u8], depth: usize, into: &mut String) {
        for Attribute {
            kind,
            nested,
            value,
        } in read(bytes)
        {
            let pad = "  ".repeat(depth);
            if nested {
                let _ = writeln!(into, "{pad}{kind}:");
                attributes(value, depth + 1, into);
            } else if value.len() > 2 && value[0].is_ascii_alphabetic() {
                let _ = writeln!(into, "{pad}{kind}: {:?}", String::from_utf8_lossy(value));
            } else {
                let _ = writeln!(into, "{pad}{kind}: {value:02x?}");
            }
        }
    }

    let (mut text, mut at) = (String::new(), 0);
    for Received {
        kind,
        sequence,
        payload,
    } in split(bytes)
    {
        let flags = u16::from_ne_bytes([bytes[at + 6], bytes[at + 7]]);
        at += MESSAGE_HEADER + payload.len();
        let (family, rest) = payload.split_at(FAMILY_HEADER);
        let _ = writeln!(
            text,
            "type {kind:#06x} flags {flags:#05x} number {sequence} family {family:02x?}"
        );
        attributes(rest, 1, &mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_read_back() {
        let written = Attributes::default()
            .text(1, "sluice")
            .number(2, 7)
            .nested(3, Attributes::default().bytes(1, &[6]));
        assert_eq!(written.as_bytes().len(), 12 + 8 + 4 + 8);
        assert_eq!(find(written.as_bytes(), 1), Some(&b"sluice\0"[..]));
        assert_eq!(find(written.as_bytes(), 2), Some(&[0, 0, 0, 7][..]));
        let inner = find(written.as_bytes(), 3).expect("it is there");
        assert_eq!(find(inner, 1), Some(&[6][..]));
        assert_eq!(find(written.as_bytes(), 4), None);
    }

    #[test]
    fn what_breaks_off_ends_the_reading() {
        let written = Attributes::default().number(1, 7).number(2, 8);
        let bytes = written.as_bytes();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).count() < 2, "{end}");
        }
        // A length below its own header, and one beyond the end.
        assert_eq!(read(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(read(&[0xff, 0xff, 1, 0, 0]).count(), 0);
        assert_eq!(split(&[0; 16]).count(), 0);
    }

    #[test]
    fn the_kernel_may_add_but_not_change_or_lengthen_a_list() {
        let element =
            |value| Attributes::default().nested(1, Attributes::default().number(1, value));
        let list = |values: &[u32]| {
            values.iter().fold(Attributes::default(), |list, value| {
                list.nested(1, element(*value))
            })
        };
        let sent = Attributes::default().text(1, "a").nested(4, list(&[1, 2]));
        let found = |values: &[u32]| {
            Attributes::default()
                .number(9, 1)
                .nested(4, list(values))
                .text(1, "a")
        };
        assert!(sent.are_in(found(&[1, 2]).as_bytes()));
        for other in [&[1][..], &[1, 3], &[2, 1], &[1, 2, 2]] {
            assert!(!sent.are_in(found(other).as_bytes()), "{other:?}");
        }
        assert!(!sent.are_in(&[]));
    }
}
