//! A trace as a table for people.

use super::{Mark, Row, Trace, Traced, spread, stats};
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};
use verifier_core::{
    observed::{Direction, Leg, TapKind},
    probe::{Outcome, Probe, Transport},
};

/// Lines with which to look closer at the place where a probe was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capture {
    /// On which node.
    pub node: String,
    /// Capture at the first tap that missed it.
    pub tcpdump: String,
    /// Follow it through the node's kernel.
    pub pwru: String,
}

/// The whole trace.
pub fn text(trace: &Trace, color: bool) -> String {
    let mut out = String::new();
    match trace.probes.as_slice() {
        [one] => single(&mut out, one, color),
        _ => many(&mut out, trace, color),
    }
    for (node, why) in &trace.gaps {
        line(&mut out, &format!("What {node} saw is not complete: {why}"));
    }
    if let Some(capture) = capture(trace) {
        line(&mut out, &format!("\nTo look closer, on {}:", capture.node));
        line(&mut out, &format!("  {}", capture.tcpdump));
        line(&mut out, &format!("  {}", capture.pwru));
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn single(out: &mut String, traced: &Traced, color: bool) {
    line(out, &heading(traced));
    let header = [
        "", "node", "device", "dir", "leg", "outer", "inner", "ttl", "len", "gso", "mark", "cpu", "after", "note",
    ];
    let mut table = table(&header);
    for row in &traced.rows {
        let after = row.since_previous_ns.map_or(String::new(), duration);
        table.add_row(cells(row, &[after], color));
    }
    line(out, &table.trim_fmt());
    line(out, &ending(traced));
}

fn many(out: &mut String, trace: &Trace, color: bool) {
    let Some(first) = trace.probes.first() else {
        return line(out, "Nothing was sent.");
    };
    line(out, &format!("{}, {} times", heading(first), trace.probes.len()));
    let header = [
        "", "node", "device", "dir", "leg", "outer", "inner", "ttl", "len", "gso", "mark", "cpu", "seen", "min", "median", "p99", "note",
    ];
    let mut table = table(&header);
    for hop in stats::hops(trace) {
        let seen = format!("{}/{}", hop.seen, trace.probes.len());
        let times = match hop.since_previous {
            Some(spread) => [duration(spread.min_ns), duration(spread.median_ns), duration(spread.p99_ns)],
            None => [String::new(), String::new(), String::new()],
        };
        let [min, median, p99] = times;
        table.add_row(cells(&hop.row, &[seen, min, median, p99], color));
    }
    line(out, &table.trim_fmt());
    let passed = trace.probes.iter().filter(|traced| traced.result.outcome.passed()).count();
    line(out, &format!("{passed} of {} passed.", trace.probes.len()));
    for (what, times) in [
        ("Round trip", spread(trace.probes.iter().filter_map(Traced::rtt_ns))),
        (
            "Without the far end's own time",
            spread(trace.probes.iter().filter_map(Traced::network_ns)),
        ),
    ] {
        if let Some(times) = times {
            let [min, median, p99] = [times.min_ns, times.median_ns, times.p99_ns].map(duration);
            line(out, &format!("{what}: min {min}, median {median}, p99 {p99}"));
        }
    }
    if let Some((lost, _)) = trace.failing() {
        line(out, &ending(lost));
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .enforce_styling()
        .set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for name in ["ttl", "len", "cpu", "after", "min", "median", "p99"] {
        if let Some(column) = header
            .iter()
            .position(|title| *title == name)
            .and_then(|index| table.column_mut(index))
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn cells(row: &Row, times: &[String], color: bool) -> Vec<Cell> {
    let inner = row.inner.as_ref();
    let text = |value: Option<String>| value.unwrap_or_default();
    let (sign, note) = match row.mark {
        Mark::Seen => ("", String::new()),
        Mark::Strayed => ("!", "not on the expected path".to_owned()),
        Mark::Error => ("!", "ICMP error about it".to_owned()),
        Mark::Dropped => ("x", format!("dropped: {}", row.drop.as_deref().unwrap_or("?"))),
        Mark::Missed => ("x", "expected here next, NOT SEEN".to_owned()),
        Mark::Unseen => ("?", "passed without being seen".to_owned()),
    };
    let mut all = vec![
        sign.to_owned(),
        row.node.to_string(),
        row.device.clone(),
        match row.direction {
            Some(Direction::Ingress) => "in".to_owned(),
            Some(Direction::Egress) => "out".to_owned(),
            None => String::new(),
        },
        match row.leg {
            Leg::Request => "request",
            Leg::Reply => "reply",
            Leg::Error => "error",
        }
        .to_owned(),
        text(row.outer.as_ref().map(|outer| {
            let vni = outer.vni.map_or(String::new(), |vni| format!(" vni {vni}"));
            let (from, to) = (socket(outer.src, outer.src_port), socket(outer.dst, outer.dst_port));
            format!("{from} > {to}{vni} ttl {} len {}", outer.ttl, outer.length_bytes)
        })),
        text(inner.map(|inner| {
            let (from, to) = (socket(inner.src, inner.src_port), socket(inner.dst, inner.dst_port));
            match inner.protocol {
                1 => format!("{} > {} icmp id {}", inner.src, inner.dst, inner.src_port),
                6 => format!("{from} > {to} tcp"),
                58 => format!("{} > {} icmp6 id {}", inner.src, inner.dst, inner.src_port),
                _ => format!("{from} > {to} udp"),
            }
        })),
        text(inner.map(|inner| inner.ttl.to_string())),
        text(inner.map(|inner| inner.length_bytes.to_string())),
        text(row.gso.map(|(size, segments)| format!("{segments}x{size}"))),
        text(row.fwmark.filter(|mark| *mark != 0).map(|mark| format!("{mark:#x}"))),
        text(row.cpu.map(|cpu| cpu.to_string())),
    ];
    all.extend_from_slice(times);
    all.push(note);
    let paint = |cell: Cell| match row.mark {
        Mark::Dropped | Mark::Missed if color => cell.fg(Color::Red),
        Mark::Strayed | Mark::Error if color => cell.fg(Color::Yellow),
        _ => cell,
    };
    all.into_iter().map(|text| paint(Cell::new(text))).collect()
}

/// `10.0.0.1:53` or `[fd00::1]:53`.
fn socket(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The protocol of echos, by its name in filters.
const fn icmp(probe: &Probe) -> &'static str {
    if probe.is_ipv6() { "icmp6" } else { "icmp" }
}

fn heading(traced: &Traced) -> String {
    let probe = &traced.result.probe;
    let end = |end: &verifier_core::probe::Endpoint| {
        let who = end.pod.as_ref().map_or_else(|| "host".to_owned(), ToString::to_string);
        format!("{who} {} ({})", end.ip, end.node)
    };
    let transport = match probe.transport {
        Transport::Udp => "udp",
        Transport::Icmp => icmp(probe),
        Transport::Tcp => "tcp",
    };
    format!(
        "{} -> {}, {transport}, {} bytes",
        end(&probe.from),
        end(&probe.to),
        probe.length_bytes
    )
}

fn ending(traced: &Traced) -> String {
    let mut out = match &traced.result.outcome {
        Outcome::Answered { rtt_ns, answered_by } => format!("Answered by {answered_by} after {}", duration(*rtt_ns)),
        Outcome::Delivered { rtt_ns } => {
            format!(
                "Delivered: the pod itself told after {} that nobody listens; no agent reflected it",
                duration(*rtt_ns)
            )
        }
        Outcome::Lost => "Lost: no answer".to_owned(),
        Outcome::Rejected {
            icmp_type,
            icmp_code,
            rejected_by,
            mtu,
        } => {
            let mtu = mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
            let protocol = if traced.result.probe.is_ipv6() { "ICMPv6" } else { "ICMP" };
            format!("Rejected by {rejected_by}: {protocol} type {icmp_type} code {icmp_code}{mtu}")
        }
        Outcome::Refused { reason } => format!("Refused by the far reflector ({reason}): says nothing about forwarding"),
        Outcome::NotSent { why, .. } => format!("Not sent: {why}"),
    };
    if let (Some(residence_ns), Some(network_ns)) = (traced.residence_ns, traced.network_ns()) {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "; {} of it at the far end, {} on the way",
            duration(residence_ns),
            duration(network_ns)
        );
    }
    out.push('.');
    if let Some(place) = &traced.place {
        let hop = place.hop.as_deref().unwrap_or("nowhere");
        let next = place.expected_next.as_deref().unwrap_or("nowhere");
        let _ = write!(out, " Last seen at {hop}, expected next at {next}.");
    }
    out
}

/// Where to look closer, if a probe was lost.
pub fn capture(trace: &Trace) -> Option<Capture> {
    let (traced, place) = trace.failing()?;
    let probe = &traced.result.probe;
    let next = place.expected_next.as_deref().unwrap_or("");
    let mut parts = next.split('/');
    let (node, device) = (parts.next().filter(|node| !node.is_empty())?, parts.next().unwrap_or("any"));
    let missed = traced.rows.iter().find(|row| row.mark == Mark::Missed);
    let what = match probe.transport {
        Transport::Udp => format!("udp port {}", probe.dst_port),
        Transport::Icmp => icmp(probe).to_owned(),
        Transport::Tcp => format!("tcp port {}", probe.dst_port),
    };
    let hosts = format!("host {} and host {}", probe.from.ip, probe.to.ip);
    // On the underlay the packet travels inside another: what tells it there are the two nodes and the tunnel's port.
    let outer = traced.rows.iter().rev().find_map(|row| row.outer.as_ref());
    let underlay = missed.is_some_and(|row| row.tap == Some(TapKind::Underlay));
    let filter = match (underlay, outer, trace.tunnel_port) {
        (true, Some(outer), Some(port)) => format!("udp port {port} and host {} and host {}", outer.src, outer.dst),
        _ => format!("{what} and {hosts}"),
    };
    let device = if device.starts_with("pod:") || device == "host" {
        "any"
    } else {
        device
    };
    Some(Capture {
        node: node.to_owned(),
        tcpdump: format!("tcpdump -nevi {device} '{filter}'"),
        pwru: format!("pwru --output-meta --output-tuple --filter-track-skb '{what} and {hosts}'"),
    })
}

fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{}.{} us", ns / 1_000, ns % 1_000 / 100),
        1_000_000..1_000_000_000 => format!("{}.{} ms", ns / 1_000_000, ns % 1_000_000 / 100_000),
        _ => format!("{}.{} s", ns / 1_000_000_000, ns % 1_000_000_000 / 100_000_000),
    }
}
