//! What is known of one probe. Every change takes the better of old and new, so the order of changes does not matter.

use super::SessionOptions;
use crate::{
    names::UnixNs,
    probe::result::{Outcome, Probe, ProbeResult, Transport},
};
use alloc::string::String;
use core::net::IpAddr;

/// An ICMP error; ordered by time first, so that the earliest is the least.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rejection {
    pub(super) mono_ns: u64,
    pub(super) icmp_type: u8,
    pub(super) icmp_code: u8,
    pub(super) from: IpAddr,
    pub(super) mtu: Option<u32>,
}

impl Rejection {
    /// A port-unreachable (RFC 792 type 3 code 3, RFC 4443 type 1 code 4) from the destination of a UDP probe proves delivery. From
    /// anywhere else, or about another transport, it is a packet filter's reject.
    fn proves_delivery(&self, probe: &Probe) -> bool {
        let port_unreachable = if probe.to.ip.is_ipv4() { (3, 3) } else { (1, 4) };
        probe.transport == Transport::Udp && (self.icmp_type, self.icmp_code) == port_unreachable && self.from == probe.to.ip
    }
}

#[derive(Clone, Debug)]
pub(super) struct Track {
    pub(super) probe: Probe,
    sent: Option<(u64, UnixNs)>,
    failure: Option<(u64, UnixNs, Option<i32>, String, bool)>,
    answer: Option<(u64, IpAddr)>,
    delivery: Option<Rejection>,
    rejection: Option<Rejection>,
    refusal: Option<String>,
}

/// Keeps the lesser of what is there and what is new.
fn keep_least<T: Ord>(slot: &mut Option<T>, new: T) {
    if slot.as_ref().is_none_or(|old| new < *old) {
        *slot = Some(new);
    }
}

impl Track {
    pub(super) const fn new(probe: Probe) -> Self {
        Self {
            probe,
            sent: None,
            failure: None,
            answer: None,
            delivery: None,
            rejection: None,
            refusal: None,
        }
    }

    pub(super) fn sent(&mut self, at: UnixNs, mono_ns: u64) {
        keep_least(&mut self.sent, (mono_ns, at));
    }

    pub(super) fn not_sent(&mut self, at: UnixNs, mono_ns: u64, errno: Option<i32>, why: String, of_dataplane: bool) {
        keep_least(&mut self.failure, (mono_ns, at, errno, why, of_dataplane));
    }

    /// False if it was answered before.
    pub(super) fn answered(&mut self, from: IpAddr, mono_ns: u64) -> bool {
        let first = self.answer.is_none();
        keep_least(&mut self.answer, (mono_ns, from));
        first
    }

    pub(super) fn rejected(&mut self, rejection: Rejection) {
        let slot = if rejection.proves_delivery(&self.probe) {
            &mut self.delivery
        } else {
            &mut self.rejection
        };
        keep_least(slot, rejection);
    }

    pub(super) fn refused(&mut self, reason: String) {
        keep_least(&mut self.refusal, reason);
    }

    /// Whether the end is known. A refusal is not the end: the packet went on into the pod, which may answer for itself.
    pub(super) const fn settled(&self) -> bool {
        self.answer.is_some() || self.delivery.is_some() || self.rejection.is_some() || (self.failure.is_some() && self.sent.is_none())
    }

    fn sent_mono_ns(&self) -> Option<u64> {
        self.sent.as_ref().map(|(mono_ns, _)| *mono_ns)
    }

    /// Whether evidence is still waited for.
    pub(super) fn open(&self, mono_ns: u64, options: &SessionOptions) -> bool {
        !self.settled()
            && self
                .sent_mono_ns()
                .is_none_or(|sent| mono_ns < sent.saturating_add(options.deadline_ns).saturating_add(options.late_ns))
    }

    pub(super) fn next_deadline(&self, mono_ns: u64, options: &SessionOptions) -> Option<u64> {
        if self.settled() {
            return None;
        }
        let deadline = self.sent_mono_ns()?.saturating_add(options.deadline_ns);
        let late = deadline.saturating_add(options.late_ns);
        [deadline, late].into_iter().find(|at| *at > mono_ns)
    }

    fn outcome(&self, mono_ns: u64, options: &SessionOptions) -> Option<Outcome> {
        let sent = self.sent_mono_ns().unwrap_or(0);
        if let Some((at, answered_by)) = self.answer {
            return Some(Outcome::Answered {
                rtt_ns: at.saturating_sub(sent),
                answered_by,
            });
        }
        if let Some(delivery) = &self.delivery {
            return Some(Outcome::Delivered {
                rtt_ns: delivery.mono_ns.saturating_sub(sent),
            });
        }
        if let Some(rejection) = &self.rejection {
            return Some(Outcome::Rejected {
                icmp_type: rejection.icmp_type,
                icmp_code: rejection.icmp_code,
                rejected_by: rejection.from,
                mtu: rejection.mtu,
            });
        }
        let overdue = mono_ns >= sent.saturating_add(options.deadline_ns);
        if let Some(reason) = self.refusal.as_ref().filter(|_| overdue) {
            return Some(Outcome::Refused { reason: reason.clone() });
        }
        match (&self.sent, &self.failure) {
            (None, Some((_, _, errno, why, of_dataplane))) => Some(Outcome::NotSent {
                errno: *errno,
                why: why.clone(),
                of_dataplane: *of_dataplane,
            }),
            (Some(_), _) if overdue => Some(Outcome::Lost),
            _ => None,
        }
    }

    fn with_outcome(&self, outcome: Outcome, provisional: bool) -> ProbeResult {
        let (sent_mono_ns, sent_at) = match (&self.sent, &self.failure) {
            (Some((mono_ns, at)), _) => (*mono_ns, *at),
            (None, Some((mono_ns, at, ..))) => (*mono_ns, *at),
            (None, None) => (0, UnixNs(0)),
        };
        ProbeResult {
            probe: self.probe.clone(),
            sent_at,
            sent_mono_ns,
            outcome,
            provisional,
        }
    }

    pub(super) fn result(&self, mono_ns: u64, options: &SessionOptions) -> Option<ProbeResult> {
        let outcome = self.outcome(mono_ns, options)?;
        Some(self.with_outcome(outcome, self.open(mono_ns, options)))
    }

    pub(super) fn close(mut self, mono_ns: u64, at: UnixNs, why: String, options: &SessionOptions) -> ProbeResult {
        if let Some(result) = self.result(mono_ns, options) {
            return result;
        }
        if self.sent.is_some() {
            return self.with_outcome(Outcome::Lost, true);
        }
        self.not_sent(at, mono_ns, None, why.clone(), false);
        let outcome = Outcome::NotSent {
            errno: None,
            why,
            of_dataplane: false,
        };
        self.with_outcome(outcome, false)
    }
}
