//! Expressions, and short ways to write the rules that the fabric and the faults need.

use std::net::{IpAddr, Ipv6Addr};

use super::Attributes;

/// `NFT_REG_1`: the one 16-byte register that all rules here use.
const REG: u32 = 1;

/// What a rule ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// drop
    Drop,
    /// accept
    Accept,
    /// back to the calling chain
    Return,
    /// go on in another chain and come back
    Jump(String),
    /// go on in another chain and do not come back
    Goto(String),
}

impl Verdict {
    /// As `NFTA_DATA_VERDICT` inside a data attribute.
    pub(super) fn encode(&self) -> Attributes {
        // NF_DROP, NF_ACCEPT, NFT_RETURN, NFT_JUMP, NFT_GOTO
        let (code, chain) = match self {
            Self::Drop => (0i32, None),
            Self::Accept => (1, None),
            Self::Return => (-5, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
        };
        let mut verdict = Attributes::default().bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            verdict = verdict.text(2, chain);
        }
        Attributes::default().nest(2, &verdict)
    }
}

/// How a comparison compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmp {
    /// equal
    Eq,
    /// not equal
    Ne,
    /// greater than, in network byte order
    Gt,
}

/// One expression of a rule. All loads go to, and all comparisons read, one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// load metadata (`NFT_META_*`)
    Meta(u32),
    /// set the mark from the register
    SetMark,
    /// load conntrack state
    CtState,
    /// load header bytes: base (1 network, 2 transport), offset, length
    Payload(u32, u32, u32),
    /// register = (register & mask) ^ xor
    Bitwise(Vec<u8>, Vec<u8>),
    /// compare the register
    Compare(Cmp, Vec<u8>),
    /// look the register up in a set
    InSet(String),
    /// look the register up in a set, and go on if it is not there
    NotInSet(String),
    /// look the register up in a verdict map
    VerdictMap(String),
    /// count
    Counter,
    /// end with a verdict
    Verdict(Verdict),
    /// masquerade
    Masquerade,
    /// keep conntrack away
    Notrack,
}

/// `NFT_META_PROTOCOL`.
pub const META_PROTOCOL: u32 = 1;
/// `NFT_META_MARK`.
pub const META_MARK: u32 = 3;
/// `NFT_META_IIFNAME`.
pub const META_IIFNAME: u32 = 6;
/// `NFT_META_OIFNAME`.
pub const META_OIFNAME: u32 = 7;
/// `NFT_META_L4PROTO`.
pub const META_L4PROTO: u32 = 16;

impl Expr {
    pub(super) fn encode(&self) -> Attributes {
        let new = Attributes::default;
        let (name, data) = match self {
            Self::Meta(key) => ("meta", new().number(1, REG).number(2, *key)),
            Self::SetMark => ("meta", new().number(2, META_MARK).number(3, REG)),
            // NFT_CT_STATE
            Self::CtState => ("ct", new().number(1, REG).number(2, 0)),
            Self::Payload(base, offset, length) => (
                "payload",
                new().number(1, REG).number(2, *base).number(3, *offset).number(4, *length),
            ),
            Self::Bitwise(mask, xor) => (
                "bitwise",
                new()
                    .number(1, REG)
                    .number(2, REG)
                    .number(3, u32::try_from(mask.len()).unwrap_or(0))
                    .nest(4, &new().bytes(1, mask))
                    .nest(5, &new().bytes(1, xor)),
            ),
            Self::Compare(how, value) => {
                // NFT_CMP_EQ, NFT_CMP_NEQ, NFT_CMP_GT
                let how = match how {
                    Cmp::Eq => 0,
                    Cmp::Ne => 1,
                    Cmp::Gt => 4,
                };
                ("cmp", new().number(1, REG).number(2, how).nest(3, &new().bytes(1, value)))
            }
            Self::InSet(set) => ("lookup", new().text(1, set).number(2, REG)),
            // NFT_LOOKUP_F_INV
            Self::NotInSet(set) => ("lookup", new().text(1, set).number(2, REG).number(5, 1)),
            // NFT_REG_VERDICT is 0
            Self::VerdictMap(map) => ("lookup", new().text(1, map).number(2, REG).number(3, 0)),
            Self::Counter => ("counter", new().bytes(1, &[0; 8]).bytes(2, &[0; 8])),
            Self::Verdict(verdict) => ("immediate", new().number(1, 0).nest(2, &verdict.encode())),
            Self::Masquerade => ("masq", new()),
            Self::Notrack => ("notrack", new()),
        };
        let wrapped = new().text(1, name);
        match self {
            Self::Notrack => wrapped,
            _ => wrapped.nest(2, &data),
        }
    }
}

/// An interface name as nf_tables compares it: 16 bytes.
#[must_use]
pub fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// Parts of rules, to be concatenated.
pub mod rules {
    use super::{Cmp, Expr, IpAddr, Ipv6Addr, META_IIFNAME, META_L4PROTO, META_OIFNAME, META_PROTOCOL, Verdict, ifname};
    use ipnet::Ipv4Net;

    /// Comparison with an interface name; a trailing `*` matches a prefix.
    fn interface(key: u32, name: &str) -> Vec<Expr> {
        let value = match name.strip_suffix('*') {
            Some(prefix) => prefix.as_bytes().to_vec(),
            None => ifname(name),
        };
        vec![Expr::Meta(key), Expr::Compare(Cmp::Eq, value)]
    }

    /// `iifname NAME`
    #[must_use]
    pub fn iifname(name: &str) -> Vec<Expr> {
        interface(META_IIFNAME, name)
    }

    /// `oifname NAME`
    #[must_use]
    pub fn oifname(name: &str) -> Vec<Expr> {
        interface(META_OIFNAME, name)
    }

    fn address(offset: u32, net: Ipv4Net) -> Vec<Expr> {
        let mut part = vec![Expr::Payload(1, offset, 4)];
        if net.prefix_len() < 32 {
            part.push(Expr::Bitwise(net.netmask().octets().to_vec(), vec![0, 0, 0, 0]));
        }
        part.push(Expr::Compare(Cmp::Eq, net.network().octets().to_vec()));
        part
    }

    /// `ip saddr NET`
    #[must_use]
    pub fn saddr(net: Ipv4Net) -> Vec<Expr> {
        address(12, net)
    }

    /// `ip daddr NET`
    #[must_use]
    pub fn daddr(net: Ipv4Net) -> Vec<Expr> {
        address(16, net)
    }

    /// `ip saddr @SET`
    #[must_use]
    pub fn saddr_in(set: &str) -> Vec<Expr> {
        vec![Expr::Payload(1, 12, 4), Expr::InSet(set.to_owned())]
    }

    /// `ip6 saddr @SET`
    #[must_use]
    pub fn saddr_in_v6(set: &str) -> Vec<Expr> {
        vec![Expr::Payload(1, 8, 16), Expr::InSet(set.to_owned())]
    }

    /// `meta protocol ip`, for netdev tables, where the netfilter protocol is that of the hook.
    #[must_use]
    pub fn ipv4() -> Vec<Expr> {
        vec![Expr::Meta(META_PROTOCOL), Expr::Compare(Cmp::Eq, vec![8, 0])]
    }

    /// `meta protocol ip6`, for netdev tables.
    #[must_use]
    pub fn ipv6() -> Vec<Expr> {
        vec![Expr::Meta(META_PROTOCOL), Expr::Compare(Cmp::Eq, vec![0x86, 0xdd])]
    }

    /// `ip6 saddr ADDRESS ip6 daddr ADDRESS`
    #[must_use]
    pub fn between_v6(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<Expr> {
        vec![
            Expr::Payload(1, 8, 16),
            Expr::Compare(Cmp::Eq, source.octets().to_vec()),
            Expr::Payload(1, 24, 16),
            Expr::Compare(Cmp::Eq, destination.octets().to_vec()),
        ]
    }

    /// `icmpv6 type NUMBER`
    #[must_use]
    pub fn icmpv6_type(number: u8) -> Vec<Expr> {
        vec![
            Expr::Meta(META_L4PROTO),
            Expr::Compare(Cmp::Eq, vec![58]),
            Expr::Payload(2, 0, 1),
            Expr::Compare(Cmp::Eq, vec![number]),
        ]
    }

    /// `icmpv6 taddr ADDRESS`: whom neighbour discovery is about.
    #[must_use]
    pub fn nd_target(address: Ipv6Addr) -> Vec<Expr> {
        vec![Expr::Payload(2, 8, 16), Expr::Compare(Cmp::Eq, address.octets().to_vec())]
    }

    /// `meta l4proto NUMBER`
    #[must_use]
    pub fn ip_protocol(number: u8) -> Vec<Expr> {
        vec![Expr::Meta(META_L4PROTO), Expr::Compare(Cmp::Eq, vec![number])]
    }

    /// `udp dport PORT`
    #[must_use]
    pub fn udp_dport(port: u16) -> Vec<Expr> {
        vec![
            Expr::Meta(META_L4PROTO),
            Expr::Compare(Cmp::Eq, vec![17]),
            Expr::Payload(2, 2, 2),
            Expr::Compare(Cmp::Eq, port.to_be_bytes().to_vec()),
        ]
    }

    /// `tcp sport PORT`, or with `destination` `tcp dport PORT`
    #[must_use]
    pub fn tcp_port(port: u16, destination: bool) -> Vec<Expr> {
        vec![
            Expr::Meta(META_L4PROTO),
            Expr::Compare(Cmp::Eq, vec![6]),
            Expr::Payload(2, if destination { 2 } else { 0 }, 2),
            Expr::Compare(Cmp::Eq, port.to_be_bytes().to_vec()),
        ]
    }

    /// `ct state` in a set of bits (invalid 1, established 2, related 4).
    #[must_use]
    pub fn ct_state(bits: u32) -> Vec<Expr> {
        vec![
            Expr::CtState,
            Expr::Bitwise(bits.to_ne_bytes().to_vec(), vec![0; 4]),
            Expr::Compare(Cmp::Ne, vec![0; 4]),
        ]
    }

    /// `counter VERDICT`
    #[must_use]
    pub fn count_and(verdict: Verdict) -> Vec<Expr> {
        vec![Expr::Counter, Expr::Verdict(verdict)]
    }

    /// All parts in order.
    #[must_use]
    pub fn all(parts: &[Vec<Expr>]) -> Vec<Expr> {
        parts.concat()
    }

    /// The address as a set's key.
    #[must_use]
    pub fn key(address: impl Into<IpAddr>) -> Vec<u8> {
        match address.into() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }
}
