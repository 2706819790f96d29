//! A way to the API server on another port of loopback, which can be cut and mended, and counts the bytes that pass.
//!
//! The server's certificate names the address and no port, so who goes this way notices nothing.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

const BUFFER: usize = 64 * 1024;

/// A relay. It and all its connections go when it is dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    port: u16,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    closed: AtomicBool,
    cut: AtomicBool,
    /// Bytes to the server and from it.
    asked: AtomicU64,
    answered: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// A way to a port of loopback.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("asking for a free port")?;
        let port = listener.local_addr().context("reading a port")?.port();
        let shared = Arc::new(Shared {
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, to)),
            closed: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            connections: Mutex::default(),
        });
        let inside = Arc::clone(&shared);
        let listening = thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || listen(&listener, &inside))
            .context("starting a thread")?;
        Ok(Self {
            shared,
            port,
            listening: Some(listening),
        })
    }

    /// Where it is entered.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks all connections, and every one that is made from now on.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.shared.break_all();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }

    /// Bytes that went to the server and that came from it, so far.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.shared.asked.load(Ordering::Relaxed),
            self.shared.answered.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Whoever waits for a connection is woken by one.
        let woken = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), Duration::from_secs(1));
        self.shared.break_all();
        if woken.is_ok()
            && let Some(thread) = self.listening.take()
            && thread.join().is_err()
        {
            eprintln!("a relay's thread panicked");
        }
    }
}

impl Shared {
    fn break_all(&self) {
        for connection in self.lock().drain(..) {
            // One that has ended already needs no ending.
            if let Err(error) = connection.shutdown(Shutdown::Both)
                && error.kind() != io::ErrorKind::NotConnected
            {
                eprintln!("a relay's connection does not end: {error}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        if shared.closed.load(Ordering::SeqCst) {
            return;
        }
        if shared.cut.load(Ordering::SeqCst) {
            continue;
        }
        // A server that is down breaks the connection, as it would without a relay.
        let Ok(server) = TcpStream::connect_timeout(&shared.to, Duration::from_secs(1)) else {
            continue;
        };
        let ends = [client.try_clone(), client.try_clone(), server.try_clone(), server.try_clone()];
        let Ok([client_reads, client_kept, server_reads, server_kept]) = transpose(ends) else {
            continue;
        };
        shared.lock().extend([client_kept, server_kept]);
        for (from, to, is_asked) in [(client_reads, server, true), (server_reads, client, false)] {
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                let counter = if is_asked { &shared.asked } else { &shared.answered };
                pump(from, to, counter);
            });
        }
        // Between the look and the entry in the list it may have been cut.
        if shared.cut.load(Ordering::SeqCst) {
            shared.break_all();
        }
    }
}

fn transpose(ends: [io::Result<TcpStream>; 4]) -> io::Result<[TcpStream; 4]> {
    let [a, b, c, d] = ends;
    Ok([a?, b?, c?, d?])
}

/// Copies until one side ends, and then ends both.
fn pump(mut from: TcpStream, mut to: TcpStream, counter: &AtomicU64) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        counter.fetch_add(read as u64, Ordering::Relaxed);
    }
    for end in [from, to] {
        // It may have ended already.
        let _ended = end.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_can_be_cut_and_mended() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Relay::start(server.local_addr().unwrap().port()).unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).unwrap();
        let mut client = connect();
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(b"12345").unwrap();
        let mut five = [0; 5];
        accepted.read_exact(&mut five).unwrap();
        accepted.write_all(b"123").unwrap();
        client.read_exact(&mut five[..3]).unwrap();
        relay.cut();
        assert_eq!(client.read(&mut five).unwrap_or(0), 0, "a cut connection ends");
        assert_eq!(connect().read(&mut five).unwrap_or(0), 0, "and so does a new one");
        assert_eq!(relay.bytes(), (5, 3));
        relay.mend();
        let mut client = connect();
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(b"1").unwrap();
        accepted.read_exact(&mut five[..1]).unwrap();
    }
}
