//! The rules that redirect a pod's inbound TCP connections: as text in nft syntax, as one netlink transaction, and
//! compared with what the kernel holds. Numbers are those of linux/netfilter/nf_tables.h.

use std::{collections::BTreeSet, fmt};

use super::netlink::{APPEND, Attributes, CREATE, Error, Message, Socket, find, read};

const TABLE: &str = "sluice";
const CHAIN: &str = "prerouting";
const SET: &str = "excluded";

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;
/// `NF_INET_PRE_ROUTING`
const PREROUTING: u32 = 0;
/// `NF_IP_PRI_NAT_DST`, which nft calls `dstnat`.
const DSTNAT: i32 = -100;
/// `NF_ACCEPT`
const ACCEPT: u32 = 1;
/// nft's number of the type `inet_service`; the kernel only keeps it.
const INET_SERVICE: u32 = 13;
const IPPROTO_TCP: u8 = 6;
/// `IFNAMSIZ`: what the kernel compares an interface's name in.
const NAME_BYTES: usize = 16;

/// `NFT_MSG_*`
mod message {
    pub const NEW_TABLE: u16 = 0;
    pub const DELETE_TABLE: u16 = 2;
    pub const GET_TABLE: u16 = 1;
    pub const NEW_CHAIN: u16 = 3;
    pub const GET_CHAIN: u16 = 4;
    pub const NEW_RULE: u16 = 6;
    pub const GET_RULE: u16 = 7;
    pub const NEW_SET: u16 = 9;
    pub const NEW_ELEMENTS: u16 = 12;
    pub const GET_ELEMENTS: u16 = 13;
}

/// What is redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Where to.
    port: u16,
    /// Destination ports that stay as they are; never empty: `port` is among them.
    excluded: BTreeSet<u16>,
}

/// What differs between the kernel's rules and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum Difference {
    Table,
    Chain,
    Rules,
    Ports,
}

impl Difference {
    /// What it is called in an error.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "the table",
            Self::Chain => "the chain",
            Self::Rules => "the rules",
            Self::Ports => "the set of excluded ports",
        }
    }
}

/// A part of a rule.
#[derive(Debug, Clone, Copy)]
enum Statement {
    /// Goes on with packets that came in by this interface.
    From(&'static str),
    /// Goes on with TCP.
    Tcp,
    /// Goes on with destination ports that are not in the set.
    PortNotExcluded,
    /// Leaves the packet as it is.
    Return,
    /// Sends the connection to a port of this machine.
    Redirect(u16),
}

impl Ruleset {
    /// Redirects every TCP port but the excluded ones to `port`, which is excluded itself.
    pub fn new(port: u16, excluded: impl IntoIterator<Item = u16>) -> Self {
        Self {
            port,
            excluded: excluded.into_iter().chain([port]).collect(),
        }
    }

    /// The ports that are not redirected.
    pub fn excluded(&self) -> impl Iterator<Item = u16> {
        self.excluded.iter().copied()
    }

    /// The table is added, deleted and added: so it is empty, whether it was there or not.
    pub fn transaction(&self) -> Vec<Message> {
        let mut messages = removal();
        let elements = of_table(1)
            .text(2, SET)
            .nested(3, elements(self.excluded()));
        messages.extend([
            request("the table", message::NEW_TABLE, CREATE, table()),
            request("the set", message::NEW_SET, CREATE, set()),
            request("the ports", message::NEW_ELEMENTS, CREATE, elements),
            request("the chain", message::NEW_CHAIN, CREATE, chain()),
        ]);
        messages.extend(
            self.rules()
                .map(|rule| request("a rule", message::NEW_RULE, CREATE | APPEND, encode(&rule))),
        );
        messages
    }

    fn rules(&self) -> [Vec<Statement>; 2] {
        [
            // The sidecar's own connections to the application come this way.
            vec![Statement::From("lo"), Statement::Return],
            vec![
                Statement::Tcp,
                Statement::PortNotExcluded,
                Statement::Redirect(self.port),
            ],
        ]
    }

    /// Where the kernel's rules differ from these; none: they are in force.
    pub fn differs(&self, socket: &mut Socket) -> Result<Option<Difference>, Error> {
        if !is_there(socket)? {
            return Ok(Some(Difference::Table));
        }
        let chains = socket.dump(&request("the chains", message::GET_CHAIN, 0, of_table(1)))?;
        let mut ours = chains.iter().filter(|found| of_table(1).are_in(found));
        if !matches!((ours.next(), ours.next()), (Some(found), None) if chain().are_in(found)) {
            return Ok(Some(Difference::Chain));
        }
        let of_chain = of_table(1).text(2, CHAIN);
        let found = socket.dump(&request("the rules", message::GET_RULE, 0, of_chain))?;
        let rules = self.rules();
        let same = |(rule, found): (&Vec<Statement>, &Vec<u8>)| encode(rule).are_in(found);
        if found.len() != rules.len() || !rules.iter().zip(&found).all(same) {
            return Ok(Some(Difference::Rules));
        }
        let of_set = of_table(1).text(2, SET);
        let found = socket.dump(&request("the ports", message::GET_ELEMENTS, 0, of_set))?;
        let ports: BTreeSet<u16> = found.iter().flat_map(|found| ports(found)).collect();
        Ok((ports != self.excluded).then_some(Difference::Ports))
    }
}

/// Removes the table; one that was never there is no error.
pub fn removal() -> Vec<Message> {
    vec![
        request("the table", message::NEW_TABLE, CREATE, table()),
        request(
            "the removal of the table",
            message::DELETE_TABLE,
            0,
            of_table(1),
        ),
    ]
}

/// Whether the kernel has the table.
pub fn is_there(socket: &mut Socket) -> Result<bool, Error> {
    let tables = socket.dump(&request(
        "the tables",
        message::GET_TABLE,
        0,
        Attributes::default(),
    ))?;
    Ok(tables.iter().any(|found| of_table(1).are_in(found)))
}

fn request(what: &'static str, kind: u16, flags: u16, attributes: Attributes) -> Message {
    Message {
        what,
        kind,
        flags,
        family: INET,
        attributes,
    }
}

fn of_table(kind: u16) -> Attributes {
    Attributes::default().text(kind, TABLE)
}

/// `NFTA_TABLE_NAME`, `NFTA_TABLE_FLAGS`
fn table() -> Attributes {
    of_table(1).number(2, 0)
}

/// `NFTA_SET_TABLE`, `_NAME`, `_FLAGS`, `_KEY_TYPE`, `_KEY_LEN`, `_ID`
fn set() -> Attributes {
    of_table(1)
        .text(2, SET)
        .number(3, 0)
        .number(4, INET_SERVICE)
        .number(5, 2)
        .number(10, 1)
}

/// A list of `NFTA_SET_ELEM_KEY`
fn elements(ports: impl IntoIterator<Item = u16>) -> Attributes {
    ports.into_iter().fold(Attributes::default(), |list, port| {
        list.nested(
            1,
            Attributes::default().nested(1, data(&port.to_be_bytes())),
        )
    })
}

/// The ports in the elements that the kernel shows.
fn ports(found: &[u8]) -> Vec<u16> {
    let elements = find(found, 3).unwrap_or_default();
    read(elements)
        .filter_map(|element| {
            let key = find(find(element.value, 1)?, 1)?;
            Some(u16::from_be_bytes(key.get(..2)?.try_into().ok()?))
        })
        .collect()
}

/// `NFTA_CHAIN_TABLE`, `_NAME`, `_HOOK`, `_POLICY`, `_TYPE`
fn chain() -> Attributes {
    let hook = Attributes::default()
        .number(1, PREROUTING)
        .number(2, DSTNAT.cast_unsigned());
    of_table(1)
        .text(3, CHAIN)
        .nested(4, hook)
        .number(5, ACCEPT)
        .text(7, "nat")
}

/// `NFTA_RULE_TABLE`, `_CHAIN`, `_EXPRESSIONS`
fn encode(rule: &[Statement]) -> Attributes {
    let expressions = rule
        .iter()
        .flat_map(Statement::expressions)
        .fold(Attributes::default(), |list, expression| {
            list.nested(1, expression)
        });
    of_table(1).text(2, CHAIN).nested(4, expressions)
}

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`
fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

/// `NFTA_DATA_VALUE`
fn data(value: &[u8]) -> Attributes {
    Attributes::default().bytes(1, value)
}

/// The register that loads and comparisons share: `NFT_REG_1`.
const REGISTER: u32 = 1;
/// `NFT_REG_VERDICT`
const VERDICT: u32 = 0;
/// `NFT_RETURN`
const RETURN: i32 = -5;

/// `NFTA_META_DREG`, `NFTA_META_KEY`
fn meta(key: u32) -> Attributes {
    expression(
        "meta",
        Attributes::default().number(1, REGISTER).number(2, key),
    )
}

/// `NFTA_CMP_SREG`, `NFTA_CMP_OP` (`NFT_CMP_EQ`), `NFTA_CMP_DATA`
fn equals(value: &[u8]) -> Attributes {
    let compared = Attributes::default()
        .number(1, REGISTER)
        .number(2, 0)
        .nested(3, data(value));
    expression("cmp", compared)
}

/// `NFTA_IMMEDIATE_DREG`, `NFTA_IMMEDIATE_DATA`
fn immediate(register: u32, value: Attributes) -> Attributes {
    let loaded = Attributes::default().number(1, register).nested(2, value);
    expression("immediate", loaded)
}

impl Statement {
    fn expressions(&self) -> Vec<Attributes> {
        match self {
            Self::From(interface) => {
                let mut name = [0; NAME_BYTES];
                name[..interface.len()].copy_from_slice(interface.as_bytes());
                // NFT_META_IIFNAME
                vec![meta(6), equals(&name)]
            }
            // NFT_META_L4PROTO
            Self::Tcp => vec![meta(16), equals(&[IPPROTO_TCP])],
            Self::PortNotExcluded => {
                // NFTA_PAYLOAD_DREG, _BASE (NFT_PAYLOAD_TRANSPORT_HEADER), _OFFSET, _LEN
                let port = Attributes::default()
                    .number(1, REGISTER)
                    .number(2, 2)
                    .number(3, 2)
                    .number(4, 2);
                // NFTA_LOOKUP_SET, _SREG, _FLAGS (NFT_LOOKUP_F_INV)
                let lookup = Attributes::default()
                    .text(1, SET)
                    .number(2, REGISTER)
                    .number(5, 1);
                vec![expression("payload", port), expression("lookup", lookup)]
            }
            Self::Return => {
                // NFTA_DATA_VERDICT, NFTA_VERDICT_CODE
                let code = Attributes::default().number(1, RETURN.cast_unsigned());
                vec![immediate(VERDICT, Attributes::default().nested(2, code))]
            }
            Self::Redirect(port) => {
                // NFTA_REDIR_REG_PROTO_MIN, NFTA_REDIR_FLAGS (NF_NAT_RANGE_PROTO_SPECIFIED)
                let redirect = Attributes::default().number(1, REGISTER).number(3, 2);
                vec![
                    immediate(REGISTER, data(&port.to_be_bytes())),
                    expression("redir", redirect),
                ]
            }
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(interface) => write!(formatter, "iifname {interface:?}"),
            Self::Tcp => formatter.write_str("meta l4proto tcp"),
            Self::PortNotExcluded => write!(formatter, "tcp dport != @{SET}"),
            Self::Return => formatter.write_str("return"),
            Self::Redirect(port) => write!(formatter, "redirect to :{port}"),
        }
    }
}

/// What `nft -f` would be given for the same effect.
impl fmt::Display for Ruleset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Vec<_> = self.excluded.iter().map(u16::to_string).collect();
        writeln!(formatter, "add table inet {TABLE}")?;
        writeln!(formatter, "delete table inet {TABLE}")?;
        writeln!(formatter, "table inet {TABLE} {{")?;
        writeln!(formatter, "\tset {SET} {{")?;
        writeln!(formatter, "\t\ttype inet_service")?;
        writeln!(formatter, "\t\telements = {{ {} }}", ports.join(", "))?;
        writeln!(formatter, "\t}}")?;
        writeln!(formatter, "\tchain {CHAIN} {{")?;
        writeln!(
            formatter,
            "\t\ttype nat hook prerouting priority dstnat; policy accept;"
        )?;
        for rule in self.rules() {
            let statements: Vec<_> = rule.iter().map(Statement::to_string).collect();
            writeln!(formatter, "\t\t{}", statements.join(" "))?;
        }
        writeln!(formatter, "\t}}")?;
        writeln!(formatter, "}}")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::netlink, *};

    #[test]
    fn as_nft_reads_it() {
        let text = Ruleset::new(15_006, [15_020, 9090]).to_string();
        assert_eq!(
            text,
            "\
add table inet sluice
delete table inet sluice
table inet sluice {
\tset excluded {
\t\ttype inet_service
\t\telements = { 9090, 15006, 15020 }
\t}
\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tiifname \"lo\" return
\t\tmeta l4proto tcp tcp dport != @excluded redirect to :15006
\t}
}
"
        );
    }

    /// What `nft --debug=mnl` sends for the text above, but for the order of set and chain, what only nft reads (user
    /// data) and the acknowledgements.
    #[test]
    fn as_netlink_has_it() {
        let messages = Ruleset::new(15_006, [15_020]).transaction();
        let text = netlink::readable(&netlink::transaction(&messages, 1));
        assert_eq!(text, include_str!("golden/transaction.txt"), "{text}");
    }

    #[test]
    fn ports_are_read_as_the_kernel_shows_them() {
        let shown = |list| of_table(1).text(2, SET).nested(3, list);
        assert!(ports(shown(Attributes::default()).as_bytes()).is_empty());
        let list = elements([80, 15_006, 65_535]);
        assert_eq!(ports(shown(list).as_bytes()), [80, 15_006, 65_535]);
    }
}
