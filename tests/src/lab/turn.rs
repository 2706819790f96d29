//! One at a time: two programs must not raise and remove a fabric of one name at once.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long one waits for another to end.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// The right to work on the fabric of one prefix; given back when dropped, and by the kernel when the process dies,
/// because it is a name in the abstract socket namespace and leaves no file.
#[derive(Debug)]
pub struct Turn {
    _name: UnixListener,
}

impl Turn {
    /// Takes it. Waits a little for one who is about to be gone: a killed program gives it back only when it has ended.
    ///
    /// # Errors
    /// Another program has it and keeps it.
    pub fn take(prefix: &str) -> Result<Self> {
        Self::take_within(prefix, PATIENCE)
    }

    fn take_within(prefix: &str, patience: Duration) -> Result<Self> {
        let address = SocketAddr::from_abstract_name(format!("verifier-fabric-{prefix}")).context("naming a lock")?;
        let began = Instant::now();
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(name) => return Ok(Self { _name: name }),
                Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < patience => sleep(POLL),
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    bail!("another lab, demo or bench is at work on the fabric {prefix:?}: wait for it, or stop it")
                }
                Err(error) => return Err(error).context("taking a lock"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_at_a_time() {
        let first = Turn::take("turn-test").unwrap();
        assert!(
            Turn::take_within("turn-test", Duration::ZERO)
                .unwrap_err()
                .to_string()
                .contains("another")
        );
        drop(first);
        Turn::take("turn-test").unwrap();
    }
}
