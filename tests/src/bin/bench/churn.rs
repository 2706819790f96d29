//! Following a routing table that changes five thousand times a second.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use verifier::programmed::account::{Account, Options};
use verifier::programmed::netns::Netns as Visited;
use verifier::supervisor::Supervisor;
use verifier_tests::lab::Stage;
use verifier_tests::netns::{self, Netns};
use verifier_tests::nl::Rtnl;

use crate::routes::route;
use crate::row::{Figure, Row};

/// Changes each second, and for how long.
const RATE: u32 = 5_000;
const SECONDS: u32 = 3;

/// Changes are made in bursts of this many; a real daemon does not pace itself finer either.
const BURST: u32 = 50;

/// Routes that are there at the end: every second change takes one out again.
const LEFT: usize = (RATE * SECONDS / 2) as usize;

/// How long the account may take to have all of it.
const DEADLINE: Duration = Duration::from_secs(20);

/// A namespace of its own; the fabric's tables stay as they are.
const NAMESPACE: &str = "dpv-bench-churn";

/// The rows.
pub(crate) fn rows(_stage: &mut Stage) -> Result<Vec<Row>> {
    let namespace = Netns::create(NAMESPACE)?;
    let measured = measure(&namespace);
    netns::delete(NAMESPACE)?;
    measured.map(|row| vec![row])
}

fn measure(namespace: &Netns) -> Result<Row> {
    namespace.run(|| Rtnl::open()?.set_up("lo", true))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let visited = Visited::open(namespace.path()).context("opening the namespace")?;
    let account = Account::new(visited, Options::default()).context("opening an account")?;
    let mut supervisor = Supervisor::new();
    {
        let _inside = runtime.enter();
        let kept = account.clone();
        supervisor.spawn("account", move |shutdown| {
            let kept = kept.clone();
            async move { kept.run(shutdown).await.map_err(Into::into) }
        });
    }
    wait_for(&account, 0)?;
    let before = account.current().stats;
    let rate = change(namespace)?;
    let since = Instant::now();
    wait_for(&account, LEFT)?;
    let behind = since.elapsed();
    let after = account.current().stats;
    runtime
        .block_on(supervisor.drain(Duration::from_secs(5)))
        .context("stopping the account")?;
    let overruns = after.overruns - before.overruns;
    Ok(Row {
        name: format!(
            "route changes followed ({overruns} overruns, {} dumps, all known {} ms after the last)",
            after.refreshes - before.refreshes,
            behind.as_millis()
        ),
        unit: "changes/s",
        reference: "the aim",
        aim: "5,000/s, in sync",
        figure: Figure::Measured {
            value: rate,
            against: Some(f64::from(RATE)),
            // A shared machine may not get the changes made in time; then the account was not asked for more.
            met: overruns == 0 && rate >= 0.9 * f64::from(RATE),
        },
        trials: vec![rate],
    })
}

/// Adds routes, and takes every second one out again; returns the changes per second that were made.
fn change(namespace: &Netns) -> Result<f64> {
    namespace.run(|| {
        let mut nl = Rtnl::open()?;
        let began = Instant::now();
        let mut made = 0;
        while made < RATE * SECONDS {
            for step in made..made + BURST {
                // Three in, one out, in each four: half of all routes made stay.
                match step % 4 {
                    3 => nl.delete_route(&route(step - 1)?)?,
                    _ => nl.add_route(&route(step)?)?,
                }
            }
            made += BURST;
            let due = Duration::from_secs_f64(f64::from(made) / f64::from(RATE));
            sleep(due.saturating_sub(began.elapsed()));
        }
        Ok(f64::from(made) / began.elapsed().as_secs_f64())
    })
}

/// Until the account knows exactly so many of our routes.
fn wait_for(account: &Account, count: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let current = account.current();
        let known = current
            .state
            .routes
            .all()
            .map(|routes| routes.iter().filter(|route| route.protocol == 4).count());
        if known == Ok(count) {
            return Ok(());
        }
        if began.elapsed() > DEADLINE {
            bail!("the account knows {known:?} routes after {DEADLINE:?}, there are {count}");
        }
        sleep(Duration::from_millis(1));
    }
}
