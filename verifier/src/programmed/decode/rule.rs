//! Policy rules: `RTM_NEWRULE`, `struct fib_rule_hdr`, attributes of `include/uapi/linux/fib_rules.h`.
//!
//! A selector that the lookup does not model is kept by name, so that the lookup can say that it does not know.

use super::{AF_INET, AF_INET6, prefix};
use crate::programmed::netlink::{
    Malformed, Request,
    attr::{self, attrs},
};
use verifier_core::programmed::{Rule, RuleAction};

/// `RTM_NEWRULE`.
pub const NEW: u16 = 32;
const GET: u16 = 34;

const FIB_RULE_INVERT: u32 = 2;
/// A goto whose target does not exist: the kernel passes over the rule.
const FIB_RULE_UNRESOLVED: u32 = 4;

/// Dump of the rules of one family.
pub fn request(family: u8) -> Request {
    let mut header = [0; 12];
    header[0] = family;
    Request::dump(GET, &header)
}

/// Decode one of `family`.
///
/// # Errors
/// If the message contradicts itself.
pub fn decode(family: u8, kind: u16, message: &[u8]) -> Result<Option<Rule>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let header = attr::head::<12>("fib_rule_hdr", message)?;
    let [found, dst_length, src_length, tos, table, _, _, action, ..] = header;
    if found != family || !matches!(found, AF_INET | AF_INET6) {
        return Ok(None);
    }
    let v6 = family == AF_INET6;
    let flags = attr::u32_of("fib_rule_hdr flags", &header[8..])?;
    let (mut dst, mut src, mut target) = (None, None, 0);
    let (mut mark, mut mask, mut table) = (None, None, u32::from(table));
    let mut rule = Rule {
        priority: 0,
        v6,
        invert: flags & FIB_RULE_INVERT != 0,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        fwmark: None,
        tos,
        ip_protocol: None,
        action: RuleAction::Nop,
        suppress_prefix_length: None,
        unknown: Vec::new(),
    };
    for attr in attrs(&message[12..]) {
        let (kind, value) = attr?;
        match kind {
            1 => dst = Some(attr::ip_of("FRA_DST", value)?),
            2 => src = Some(attr::ip_of("FRA_SRC", value)?),
            3 => rule.iif = Some(attr::name_of(value)),
            4 => target = attr::u32_of("FRA_GOTO", value)?,
            6 => rule.priority = attr::u32_of("FRA_PRIORITY", value)?,
            10 => mark = Some(attr::u32_of("FRA_FWMARK", value)?),
            // -1 is "none" and is always sent.
            14 => rule.suppress_prefix_length = Some(attr::u32_of("FRA_SUPPRESS_PREFIXLEN", value)?).filter(|l| *l <= 128),
            15 => table = attr::u32_of("FRA_TABLE", value)?,
            16 => mask = Some(attr::u32_of("FRA_FWMASK", value)?),
            17 => rule.oif = Some(attr::name_of(value)),
            19 if attr::u8_of("FRA_L3MDEV", value)? == 0 => {}
            22 => rule.ip_protocol = Some(attr::u8_of("FRA_IP_PROTO", value)?).filter(|p| *p != 0),
            12 if value.iter().all(|b| *b == 0) => {}
            // Realms (FRA_FLOW) are a result, padding and the installing protocol select nothing.
            11 | 18 | 21 => {}
            other => {
                let name = unknown_selector(other);
                if !rule.unknown.contains(&name) {
                    rule.unknown.push(name);
                }
            }
        }
    }
    if dst_length != 0 {
        rule.dst = Some(prefix("fib_rule_hdr dst_len", v6, dst, dst_length)?);
    }
    if src_length != 0 {
        rule.src = Some(prefix("fib_rule_hdr src_len", v6, src, src_length)?);
    }
    // A mask alone means mark 0 under that mask; `fib_nl_fill_rule` sends both as soon as either is set.
    rule.fwmark = match (mark, mask) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    rule.action = match action {
        1 => RuleAction::Table(table),
        2 if flags & FIB_RULE_UNRESOLVED != 0 => RuleAction::Nop,
        2 => RuleAction::Goto(target),
        3 => RuleAction::Nop,
        6 => RuleAction::Blackhole,
        7 => RuleAction::Unreachable,
        8 => RuleAction::Prohibit,
        other => RuleAction::Other(other),
    };
    Ok(Some(rule))
}

fn unknown_selector(kind: u16) -> String {
    match kind {
        12 => "tunnel id".into(),
        13 => "suppress interface group".into(),
        19 => "l3mdev".into(),
        20 => "uid range".into(),
        23 | 28 => "source ports".into(),
        24 | 29 => "destination ports".into(),
        25 | 30 => "dscp".into(),
        26 | 27 => "flow label".into(),
        other => format!("attribute {other}"),
    }
}
