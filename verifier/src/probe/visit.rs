//! One visit: a thread that is inside a namespace sends a batch, listens, and feeds the core's session.
//!
//! One loop, bounded in time by the deadlines: send what is due, wait until something arrives or the next thing is due, read, tell.

use super::{
    ProbeRun, RunOptions, SOURCE,
    errno::{Meaning, of_open, of_send},
    keys::ProbeKeys,
    packet::Read,
    socket::{Key, ProbeSocket},
};
use crate::clock;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use verifier_core::{
    evidence::Gap,
    probe::{Event, Probe, Session, SessionOptions},
};

/// How soon a visit notices that nobody waits for it any more.
const STOP_NS: u64 = 200_000_000;
/// How long after a port was found taken, or a buffer full, it is tried again.
const RETRY_NS: u64 = 20_000_000;
/// Packets read from one socket before the others have their turn.
const READ_AT_ONCE: usize = 256;
/// Larger than any packet without its IPv6 header, and than any IPv4 packet with its header.
const BUFFER_BYTES: usize = 65_536;

/// Why something was not sent in a visit that ran its course: a fault of this program, since there is no such thing.
const ENDED: &str = "the visit had ended";

/// A probe that waits to be sent.
struct Queued {
    probe: Probe,
    from: IpAddr,
    to: IpAddr,
    not_before_ns: u64,
    give_up_ns: u64,
}

struct Visit<'a> {
    keys: &'a ProbeKeys,
    options: &'a RunOptions,
    session: Session,
    queue: VecDeque<Queued>,
    sockets: BTreeMap<Key, ProbeSocket>,
    /// Probes that are not settled, with the socket each needs. A socket that no probe needs is closed.
    waiting: BTreeMap<u64, Key>,
    users: BTreeMap<Key, usize>,
    /// Deadlines of what was sent, in order of time because probes are.
    due: VecDeque<(u64, u64)>,
    due_late: VecDeque<(u64, u64)>,
    next_send_ns: u64,
    gap_ns: u64,
    gaps: Vec<Gap>,
}

/// Sends `batch` from the namespace of the calling thread; ends when every probe has ended, or soon after `stop` is set.
pub(super) fn visit(batch: Vec<Probe>, keys: &ProbeKeys, options: &RunOptions, stop: &AtomicBool) -> ProbeRun {
    let mut visit = Visit::new(batch, keys, options);
    let why = visit.run(stop);
    let (results, counters) = visit.session.close(clock::monotonic_ns(), clock::unix_now(), why);
    ProbeRun {
        results,
        gaps: visit.gaps,
        counters,
    }
}

impl<'a> Visit<'a> {
    fn new(batch: Vec<Probe>, keys: &'a ProbeKeys, options: &'a RunOptions) -> Self {
        let times = SessionOptions {
            deadline_ns: clock::duration_ns(options.deadline),
            late_ns: clock::duration_ns(options.late),
        };
        let now = clock::monotonic_ns();
        let mut visit = Self {
            keys,
            options,
            session: Session::new(batch.iter().cloned(), times),
            queue: VecDeque::with_capacity(batch.len()),
            sockets: BTreeMap::new(),
            waiting: BTreeMap::new(),
            users: BTreeMap::new(),
            due: VecDeque::new(),
            due_late: VecDeque::new(),
            next_send_ns: now,
            gap_ns: 1_000_000_000 / u64::from(options.per_second.max(1)),
            gaps: Vec::new(),
        };
        for probe in batch {
            let (from, to) = (probe.from.ip, probe.to.ip);
            if from.is_ipv4() != to.is_ipv4() {
                visit.not_sent(probe.id, None, format!("{from} and {to} are of two families"), false);
                continue;
            }
            let key = Key::of(&probe, from);
            visit.waiting.insert(probe.id, key);
            *visit.users.entry(key).or_insert(0) += 1;
            visit.queue.push_back(Queued {
                probe,
                from,
                to,
                not_before_ns: now,
                give_up_ns: now.saturating_add(clock::duration_ns(options.port_wait)),
            });
        }
        visit
    }

    /// Gives the reason for which whatever was not sent by the end was not.
    fn run(&mut self, stop: &AtomicBool) -> &'static str {
        let mut buffer = vec![0; BUFFER_BYTES];
        // The batch at its rate, what a port may be waited for, the deadlines, and some slack for a busy machine.
        let end = clock::monotonic_ns()
            .saturating_add(self.gap_ns.saturating_mul(self.queue.len() as u64))
            .saturating_add(clock::duration_ns(self.options.port_wait))
            .saturating_add(clock::duration_ns(self.options.deadline))
            .saturating_add(clock::duration_ns(self.options.late))
            .saturating_add(clock::duration_ns(Duration::from_secs(2)));
        loop {
            let now = clock::monotonic_ns();
            if stop.load(Ordering::Relaxed) {
                return "the visit was stopped";
            }
            if now >= end {
                self.wait_and_read(now, &mut buffer);
                return "the visit took too long";
            }
            self.send_due(now);
            if self.waiting.is_empty() {
                return ENDED;
            }
            // Deadlines pass only after a look at the sockets that began later: a thread that the machine kept waiting finds its answers
            // in the buffers and must not call them lost.
            let looked_at = clock::monotonic_ns();
            self.wait_and_read(self.next_wake(looked_at).min(end), &mut buffer);
            self.pass_deadlines(looked_at);
            if self.waiting.is_empty() {
                return ENDED;
            }
        }
    }

    fn next_wake(&self, now: u64) -> u64 {
        let send = self.queue.front().map(|next| next.not_before_ns.max(self.next_send_ns));
        let due = self.due.front().map(|(at, _)| *at);
        let late = self.due_late.front().map(|(at, _)| *at);
        [send, due, late].into_iter().flatten().fold(now.saturating_add(STOP_NS), u64::min)
    }

    /// Sends the first of the queue if it is due.
    fn send_due(&mut self, now: u64) {
        if now < self.next_send_ns || self.queue.front().is_none_or(|next| now < next.not_before_ns) {
            return;
        }
        let Some(next) = self.queue.pop_front() else { return };
        // From the planned moment, not from now, so that the rate holds; but never a burst to catch up.
        self.next_send_ns = self.next_send_ns.saturating_add(self.gap_ns).max(now);
        let key = Key::of(&next.probe, next.from);
        if !self.sockets.contains_key(&key) {
            match ProbeSocket::open(key, &self.options.config) {
                Ok(socket) => {
                    self.sockets.insert(key, socket);
                }
                Err(error) => return self.failed(next, now, &error, of_open(&error), "open a socket"),
            }
        }
        let Some(socket) = self.sockets.get(&key) else { return };
        let (at, mono_ns) = (clock::unix_now(), clock::monotonic_ns());
        match socket.send(&next.probe, next.to, self.keys, at.0) {
            Ok(()) => self.sent(next.probe.id, at, mono_ns),
            Err(error) => match of_send(&error) {
                Meaning::DroppedBelow => self.sent(next.probe.id, at, mono_ns),
                meaning => self.failed(next, now, &error, meaning, "send"),
            },
        }
    }

    fn sent(&mut self, id: u64, at: verifier_core::names::UnixNs, mono_ns: u64) {
        self.session.handle(Event::Sent { id, at, mono_ns });
        let due = mono_ns.saturating_add(clock::duration_ns(self.options.deadline));
        self.due.push_back((due, id));
        self.due_late
            .push_back((due.saturating_add(clock::duration_ns(self.options.late)), id));
    }

    fn failed(&mut self, mut next: Queued, now: u64, error: &io::Error, meaning: Meaning, doing: &str) {
        let (why, of_dataplane) = match meaning {
            Meaning::PortTaken | Meaning::TryAgain if now < next.give_up_ns => {
                next.not_before_ns = now.saturating_add(RETRY_NS);
                self.queue.push_back(next);
                return;
            }
            Meaning::PortTaken => ("another program holds the probe's port: does a second verifier run here?", false),
            Meaning::TryAgain => ("the socket's buffer stays full", false),
            Meaning::DroppedBelow => ("dropped below IP", true),
            Meaning::OfDataplane(why) => (why, true),
            Meaning::OfProber(why) => (why, false),
        };
        let why = format!("cannot {doing}: {why} ({error})");
        if !of_dataplane && !self.gaps.iter().any(|gap| gap.why == why) {
            self.gaps.push(Gap::new(SOURCE, why.clone()));
        }
        self.not_sent(next.probe.id, error.raw_os_error(), why, of_dataplane);
    }

    fn not_sent(&mut self, id: u64, errno: Option<i32>, why: String, of_dataplane: bool) {
        self.tell(Event::NotSent {
            id,
            at: clock::unix_now(),
            mono_ns: clock::monotonic_ns(),
            errno,
            why,
            of_dataplane,
        });
    }

    /// Hands an event to the session; a probe that it settles needs its socket no longer.
    fn tell(&mut self, event: Event) {
        if let Some(id) = self.session.handle(event)
            && self.session.settled(id)
        {
            self.release(id);
            self.update(id);
        }
    }

    fn update(&self, id: u64) {
        if let Some(updates) = &self.options.updates
            && let Some(result) = self.session.result(id, clock::monotonic_ns())
        {
            // Nobody listens any more: the final results have it all.
            let _ = updates.send(result);
        }
    }

    fn release(&mut self, id: u64) {
        let Some(key) = self.waiting.remove(&id) else { return };
        if let Some(users) = self.users.get_mut(&key) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.sockets.remove(&key);
            }
        }
    }

    fn pass_deadlines(&mut self, now: u64) {
        while let Some((at, id)) = self.due.front().copied() {
            let open = self.waiting.contains_key(&id);
            if open && at > now {
                break;
            }
            self.due.pop_front();
            // Without a time for late evidence the next queue tells the same at once.
            if open && !self.options.late.is_zero() {
                self.update(id);
            }
        }
        while let Some((at, id)) = self.due_late.front().copied() {
            let open = self.waiting.contains_key(&id);
            if open && at > now {
                break;
            }
            self.due_late.pop_front();
            if open {
                self.release(id);
                self.update(id);
            }
        }
    }

    /// Waits until a socket has something or `wake` has come, and reads.
    fn wait_and_read(&mut self, wake: u64, buffer: &mut [u8]) {
        let ready: Vec<Key> = {
            let mut polled: Vec<PollFd<'_>> = self
                .sockets
                .values()
                .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .collect();
            let wait = Duration::from_nanos(wake.saturating_sub(clock::monotonic_ns()));
            // An interruption is a short wait.
            if ppoll(&mut polled, Some(TimeSpec::from_duration(wait)), None).is_err() {
                return;
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            self.sockets
                .keys()
                .zip(&polled)
                .filter(|(_, fd)| ready(fd))
                .map(|(key, _)| *key)
                .collect()
        };
        for key in ready {
            let mut events = Vec::new();
            if let Some(socket) = self.sockets.get(&key) {
                let config = &self.options.config;
                // Errors first: taking them away also clears the pending error that the next receive would report.
                for _ in 0..READ_AT_ONCE {
                    match socket.receive_error(buffer, config, self.keys, clock::monotonic_ns) {
                        Some(Read::Event(event)) => events.push(event),
                        Some(Read::Foreign) => {}
                        None => break,
                    }
                }
                for _ in 0..READ_AT_ONCE {
                    match socket.receive(buffer, config, self.keys, clock::monotonic_ns) {
                        Some(Read::Event(event)) => events.push(event),
                        Some(Read::Foreign) => {}
                        None => break,
                    }
                }
            }
            for event in events {
                self.tell(event);
            }
        }
    }
}
