//! Background traffic between the fabric's pods: datagrams at a steady rate and short TCP
//! transfers, from each node's first pod to the next node's. Bounded in rate and in time.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{
    fabric::{Fabric, Pod},
    netns::Netns,
};

/// How much, and for how long at most.
#[derive(Debug, Clone, Copy)]
pub struct LoadSpec {
    /// datagrams per second and flow
    pub datagrams_per_second: u32,
    /// payload of a datagram
    pub datagram_bytes: usize,
    /// TCP transfers per second and flow
    pub transfers_per_second: u32,
    /// bytes of a transfer
    pub transfer_bytes: usize,
    /// when it ends by itself
    pub at_most: Duration,
}

impl Default for LoadSpec {
    fn default() -> Self {
        Self {
            datagrams_per_second: 500,
            datagram_bytes: 512,
            transfers_per_second: 5,
            transfer_bytes: 1 << 20,
            at_most: Duration::from_secs(600),
        }
    }
}

/// What went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// datagrams sent
    pub sent: u64,
    /// datagrams received
    pub received: u64,
    /// TCP transfers that were received whole
    pub transfers: u64,
    /// TCP transfers that failed
    pub failed_transfers: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    transfers: AtomicU64,
    failed: AtomicU64,
}

/// Traffic that is running.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// How long a receiver waits before it looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

/// What every thread of a flow shares.
#[derive(Clone)]
struct Flow {
    spec: LoadSpec,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    deadline: Instant,
}

impl Flow {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && Instant::now() < self.deadline
    }
}

impl Load {
    /// Starts it.
    pub fn start(fabric: &Fabric, spec: LoadSpec) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        let flow = Flow {
            spec,
            stop: stop.clone(),
            counters: counters.clone(),
            deadline: Instant::now() + spec.at_most,
        };
        let mut load = Self {
            stop,
            counters,
            threads: Vec::new(),
        };
        let pods = fabric.pods();
        let firsts: Vec<&Pod> = fabric
            .nodes()
            .iter()
            .filter_map(|node| pods.iter().find(|pod| pod.node == node.index))
            .collect();
        for (at, from) in firsts.iter().enumerate() {
            let to = firsts[(at + 1) % firsts.len()];
            load.add_flow(&flow, &fabric.pod_netns(from)?, &fabric.pod_netns(to)?, to.ip)?;
        }
        Ok(load)
    }

    fn add_flow(&mut self, flow: &Flow, source: &Netns, target: &Netns, to: Ipv4Addr) -> Result<()> {
        // Sockets stay in the namespace in which they were opened; the threads need not be there.
        let (receiver, listener) = target.run(|| {
            let receiver = UdpSocket::bind((to, 0)).context("bind the datagram receiver")?;
            let listener = TcpListener::bind((to, 0)).context("bind the listener")?;
            Ok((receiver, listener))
        })?;
        let sender = source.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind the sender"))?;
        let udp_port = receiver.local_addr().context("look up a port")?.port();
        let tcp_port = listener.local_addr().context("look up a port")?.port();
        receiver.set_read_timeout(Some(LOOK)).context("set a timeout")?;
        listener.set_nonblocking(true).context("make the listener non-blocking")?;
        let spawn = |work: Box<dyn FnOnce(Flow) -> Result<()> + Send>| {
            let flow = flow.clone();
            thread::spawn(move || work(flow))
        };
        self.threads.push(spawn(Box::new(move |flow| receive_datagrams(&flow, &receiver))));
        self.threads
            .push(spawn(Box::new(move |flow| send_datagrams(&flow, &sender, to, udp_port))));
        self.threads.push(spawn(Box::new(move |flow| accept_transfers(&flow, &listener))));
        let source = source.clone();
        self.threads.push(spawn(Box::new(move |flow| {
            // Each transfer opens a socket, so this thread's work is done inside.
            source.run(|| send_transfers(&flow, to, tcp_port))
        })));
        Ok(())
    }

    /// What went through so far.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Carried {
            sent: read(&self.counters.sent),
            received: read(&self.counters.received),
            transfers: read(&self.counters.transfers),
            failed_transfers: read(&self.counters.failed),
        }
    }

    /// Ends it and says what went through.
    pub fn stop(mut self) -> Result<Carried> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
        }
        Ok(self.carried())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A receive that timed out is no error here.
fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn receive_datagrams(flow: &Flow, socket: &UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    while flow.goes_on() {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                flow.counters.received.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if is_timeout(error.kind()) => {}
            Err(error) => return Err(error).context("receive a datagram"),
        }
    }
    Ok(())
}

fn send_datagrams(flow: &Flow, socket: &UdpSocket, to: Ipv4Addr, port: u16) -> Result<()> {
    let payload = vec![0x5a; flow.spec.datagram_bytes];
    let gap = Duration::from_secs(1) / flow.spec.datagrams_per_second.max(1);
    while flow.goes_on() {
        // With a fault in, the kernel may refuse: that is a datagram not sent, and no more.
        if socket.send_to(&payload, (to, port)).is_ok() {
            flow.counters.sent.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(gap);
    }
    Ok(())
}

fn accept_transfers(flow: &Flow, listener: &TcpListener) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    while flow.goes_on() {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_timeout(error.kind()) => {
                thread::sleep(Duration::from_millis(2));
                continue;
            }
            Err(error) => return Err(error).context("accept a transfer"),
        };
        stream.set_nonblocking(false).context("make a transfer blocking")?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).context("set a timeout")?;
        let mut total = 0;
        // A transfer that breaks off is counted by its sender.
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 {
                break;
            }
            total += length;
        }
        if total == flow.spec.transfer_bytes {
            flow.counters.transfers.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn send_transfers(flow: &Flow, to: Ipv4Addr, port: u16) -> Result<()> {
    let payload = vec![0xa5; flow.spec.transfer_bytes];
    let gap = Duration::from_secs(1) / flow.spec.transfers_per_second.max(1);
    while flow.goes_on() {
        let began = Instant::now();
        let done = TcpStream::connect_timeout(&(to, port).into(), Duration::from_secs(1)).and_then(|mut stream| {
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(&payload)
        });
        if done.is_err() && flow.goes_on() {
            flow.counters.failed.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(gap.saturating_sub(began.elapsed()));
    }
    Ok(())
}
