//! Policy routing rules.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use serde::{Deserialize, Serialize};

use super::Rtnl;

/// `PRIORITY: to DST lookup TABLE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// preference; lower comes first, 32766 is the main table
    pub priority: u32,
    /// destinations that it captures
    pub to: Ipv4Net,
    /// the table it sends them to
    pub table: u32,
}

impl Rtnl {
    fn rule_message(rule: &Rule) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.dst_len = rule.to.prefix_len();
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(rule.priority),
            RuleAttribute::Table(rule.table),
            RuleAttribute::Destination(IpAddr::V4(rule.to.network())),
        ];
        message
    }

    /// Adds a rule.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        self.request(RouteNetlinkMessage::NewRule(Self::rule_message(rule)), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("add rule {rule:?}"))
    }

    /// Deletes a rule.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        self.request(RouteNetlinkMessage::DelRule(Self::rule_message(rule)), 0)
            .with_context(|| format!("delete rule {rule:?}"))
    }

    /// All IPv4 rules, as text, sorted.
    pub fn rules(&mut self) -> Result<Vec<String>> {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        let dump = self.dump(&RouteNetlinkMessage::GetRule(message))?;
        let mut all: Vec<String> = dump
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(rule) => Some(format!("{:?} {:?}", rule.header, rule.attributes)),
                _ => None,
            })
            .collect();
        all.sort();
        Ok(all)
    }
}
