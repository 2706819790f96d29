//! Reading a large routing table: the verifier's dump loop against `ip route show`, and following a table that changes.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use verifier::programmed::dump::Tables;
use verifier::programmed::netns::Netns as Visited;
use verifier_core::evidence::Evidence;
use verifier_tests::lab::Stage;
use verifier_tests::netns::{self, Netns};
use verifier_tests::nl::{Route, Rtnl};

use crate::row::{Figure, Row, median};

/// Routes in the table.
const ROUTES: u32 = 20_000;

/// How many times each is read, in turn.
const ROUNDS: usize = 9;

/// A namespace of its own; the fabric's tables stay as they are.
const NAMESPACE: &str = "dpv-bench-routes";

/// The rows.
pub(crate) fn rows(_stage: &mut Stage) -> Result<Vec<Row>> {
    let namespace = Netns::create(NAMESPACE)?;
    let measured = measure(&namespace);
    netns::delete(NAMESPACE)?;
    measured
}

fn measure(namespace: &Netns) -> Result<Vec<Row>> {
    namespace.run(|| {
        let mut nl = Rtnl::open()?;
        nl.set_up("lo", true)?;
        (0..ROUTES).try_for_each(|index| nl.add_route(&route(index)?))
    })?;
    let visited = Visited::open(namespace.path()).context("opening the namespace")?;
    let mut tables = Tables::open(&visited).context("opening a netlink socket")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        match tables.routes() {
            Evidence::Complete { value } if value.len() >= ROUTES as usize => {}
            Evidence::Complete { value } => bail!("a dump of {} routes calls itself complete", value.len()),
            other => bail!("the dump has gaps: {:?}", other.gaps()),
        }
        ours.push(began.elapsed().as_secs_f64() * 1e3);
        if let Some(took) = ip_route_show(namespace)? {
            theirs.push(took);
        }
    }
    let name = "dump of 20,000 routes";
    let aim = "below ip route show";
    if theirs.is_empty() {
        return Ok(vec![Row::missing(name, aim, "`ip` is not installed")]);
    }
    Ok(vec![Row {
        name: name.to_owned(),
        unit: "ms",
        reference: "ip route show",
        aim,
        figure: Figure::Measured {
            value: median(&ours),
            against: Some(median(&theirs)),
            met: median(&ours) <= median(&theirs),
        },
        trials: ours,
    }])
}

/// `10.N.N.N/32` by loopback, the cheapest that the kernel keeps.
pub(crate) fn route(index: u32) -> Result<Route> {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + index);
    Ok(Route::unicast(Ipv4Net::new(address, 32)?, None, "lo", 4))
}

/// Milliseconds of a whole `ip route show`, its output thrown away; none where there is no `ip`.
fn ip_route_show(namespace: &Netns) -> Result<Option<f64>> {
    namespace.run(|| {
        let began = Instant::now();
        let ran = Command::new("ip").args(["route", "show"]).stdout(Stdio::null()).status();
        match ran {
            Ok(status) if status.success() => Ok(Some(began.elapsed().as_secs_f64() * 1e3)),
            Ok(status) => bail!("ip route show ended with {status}"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("running ip route show"),
        }
    })
}
