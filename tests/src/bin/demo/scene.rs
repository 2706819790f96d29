//! One fault, from the healthy fabric and back to it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use verifier_core::verdict::{ClusterReport, Finding, Verdict};
use verifier_tests::faults::{self, AgentFault, Cast, Expectation, Fault, Injection, Outcome};
use verifier_tests::foreign::traffic::Traffic;
use verifier_tests::golden::{Golden, HEALTHY};
use verifier_tests::lab::judge::{differences, is_expected, the_root};
use verifier_tests::lab::report::{Blamed, Cause, Report};
use verifier_tests::lab::watch::Watch;
use verifier_tests::lab::{Stage, program};

use crate::interrupt::Interrupt;
use crate::show::Show;

/// How long the continuous verdict may take to name a fault.
const DETECTION_DEADLINE: Duration = Duration::from_secs(30);

/// How long the continuous verdict may take to call a mended fabric healthy again.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(60);

/// Whoever waits looks this often whether Ctrl-C came.
const SLICE: Duration = Duration::from_millis(500);

/// What became of one fault.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) name: &'static str,
    pub(crate) expected: Expectation,
    pub(crate) result: Verified,
}

/// How the verifier did.
#[derive(Debug)]
pub(crate) enum Verified {
    /// The machine cannot have this fault.
    Skipped(String),
    /// It was asked.
    Judged {
        /// What it said.
        report: Box<Report>,
        /// From injection to the continuous verdict. None where nothing is to be detected, or nothing was.
        detected: Option<Duration>,
        /// How long `validate` took.
        validated: Duration,
        /// Everything that is not right.
        wrong: Vec<String>,
    },
}

impl Played {
    /// A fault that the machine cannot have says nothing against the verifier.
    pub(crate) fn is_right(&self) -> bool {
        match &self.result {
            Verified::Skipped(_) => true,
            Verified::Judged { wrong, .. } => wrong.is_empty(),
        }
    }

    /// Whether the verifier was asked at all.
    pub(crate) fn is_judged(&self) -> bool {
        matches!(self.result, Verified::Judged { .. })
    }

    /// The root that was named, if it is the expected one.
    pub(crate) fn root(&self) -> Option<(Blamed, &Cause)> {
        match &self.result {
            Verified::Judged { report, .. } => the_root(&self.expected, report),
            Verified::Skipped(_) => None,
        }
    }
}

/// What one `validate` said.
pub(crate) struct Said {
    pub(crate) report: Report,
    /// The same, as it stood on standard output.
    raw: serde_json::Value,
    pub(crate) status: Option<i32>,
}

/// Where faults are played.
pub(crate) struct Scene<'s> {
    pub(crate) stage: &'s mut Stage,
    pub(crate) watch: &'s Watch,
    pub(crate) show: &'s Show,
    pub(crate) interrupt: &'s Interrupt,
    pub(crate) cold: bool,
    /// Where right verdicts are kept with what they were made of.
    pub(crate) golden: Option<&'s Golden>,
    /// How often nothing must be found where nothing is wrong.
    pub(crate) rounds: usize,
    /// What is being sent against intent.
    pub(crate) traffic: Option<Traffic>,
}

impl Scene<'_> {
    /// Proves the fabric healthy, and says so.
    pub(crate) fn prove_healthy(&self) -> Result<()> {
        let (said, took) = self.healthy()?;
        self.keep(HEALTHY, &said.raw)?;
        self.show.healthy(&said.report, took);
        Ok(())
    }

    /// `validate` must find nothing at all.
    pub(crate) fn healthy(&self) -> Result<(Said, Duration)> {
        self.show.busy("waiting until the continuous verdict is healthy");
        self.recovered()?;
        self.show.busy("proving the fabric healthy: verifier validate");
        let (said, took) = self.validate()?;
        let complaints = said.report.complaints();
        self.show.idle();
        if !complaints.is_empty() || said.status != Some(0) {
            bail!(
                "the fabric should be healthy, and validate says (status {:?}): {}",
                said.status,
                complaints.join("; ")
            );
        }
        Ok((said, took))
    }

    /// Injects, watches, validates. The fault stays in.
    pub(crate) fn play(&mut self, fault: &'static Fault) -> Result<Played> {
        let expected = fault.expectation(self.stage.fabric())?;
        if self.cold {
            self.stage.fabric().cool_neighbours()?;
        }
        self.show.busy("injecting");
        let since = Instant::now();
        if let Some(why) = self.inject(fault)? {
            self.show.idle();
            return Ok(Played {
                name: fault.name,
                expected,
                result: Verified::Skipped(why),
            });
        }
        let detected = self.detect(&expected, since)?;
        self.show.busy("asking: verifier validate");
        let (said, validated) = self.validate()?;
        self.show.idle();
        let mut wrong = differences(&expected, &said.report, said.status);
        // What is right once by chance is not right.
        for _ in 1..if expected.code.is_none() { self.rounds } else { 1 } {
            let (again, _) = self.validate()?;
            wrong.extend(differences(&expected, &again.report, again.status));
        }
        if expected.code.is_some() && detected.is_none() {
            wrong.push(format!(
                "the continuous verdict did not name it within {} s; it says: {}",
                DETECTION_DEADLINE.as_secs(),
                troubles(&self.watch.now()).join("; ")
            ));
        }
        if wrong.is_empty() {
            self.keep(fault.name, &said.raw)?;
        }
        let result = Verified::Judged {
            report: Box::new(said.report),
            detected,
            validated,
            wrong,
        };
        Ok(Played {
            name: fault.name,
            expected,
            result,
        })
    }

    /// Takes the fault out again, and proves that nothing of it is left.
    pub(crate) fn mend(&mut self, fault: &Fault) -> Result<()> {
        self.show.busy("mending");
        match fault.injection {
            Injection::Agent(_) => self.stage.start_agents()?,
            Injection::Traffic(_) => self.traffic = None,
            Injection::Fabric(_) => faults::undo(self.stage.fabric())?,
        }
        let since = Instant::now();
        self.healthy().with_context(|| format!("after `{}` was mended", fault.name))?;
        self.show.mended(since.elapsed());
        Ok(())
    }

    /// Why the machine cannot have this fault, if it cannot.
    fn inject(&mut self, fault: &Fault) -> Result<Option<String>> {
        match fault.injection {
            Injection::Agent(AgentFault::Dead) => self.stage.kill_agent("node-b").map(|()| None),
            Injection::Agent(AgentFault::Restarts) => {
                self.stage.kill_agent("node-b")?;
                self.stage.start_agents().map(|()| None)
            }
            Injection::Traffic(send) => {
                let cast = Cast::of(self.stage.fabric())?;
                self.traffic = Some(send(&cast).context("sending against intent")?);
                Ok(None)
            }
            Injection::Fabric(_) => match fault.inject(self.stage.fabric()).context("injecting the fault")? {
                Outcome::Injected(_) => Ok(None),
                Outcome::Skipped(why) => Ok(Some(why)),
            },
        }
    }

    /// How long until the continuous verdict names it. None if nothing is to be named.
    fn detect(&self, expected: &Expectation, since: Instant) -> Result<Option<Duration>> {
        if expected.code.is_none() {
            return Ok(None);
        }
        self.show.busy("waiting for the continuous verdict");
        self.wait(since, DETECTION_DEADLINE, |report| names(expected, report))
    }

    fn recovered(&self) -> Result<()> {
        let last = std::cell::RefCell::new(Vec::new());
        let healthy = self.wait(Instant::now(), RECOVERY_DEADLINE, |report| {
            *last.borrow_mut() = troubles(report);
            last.borrow().is_empty()
        })?;
        match healthy {
            Some(_) => Ok(()),
            None => {
                self.show.idle();
                bail!(
                    "the continuous verdict is not healthy after {} s: {}",
                    RECOVERY_DEADLINE.as_secs(),
                    last.borrow().join("; ")
                )
            }
        }
    }

    fn wait(&self, since: Instant, deadline: Duration, wanted: impl Fn(&ClusterReport) -> bool) -> Result<Option<Duration>> {
        loop {
            let slice = (since.elapsed() + SLICE).min(deadline);
            if let Some(took) = self.watch.wait_for(since, slice, &wanted) {
                return Ok(Some(took));
            }
            if self.interrupt.came() {
                bail!("interrupted");
            }
            if since.elapsed() >= deadline {
                return Ok(None);
            }
        }
    }

    pub(crate) fn validate(&self) -> Result<(Said, Duration)> {
        let began = Instant::now();
        let switch = self.stage.fabric().switch_netns()?;
        let draft = self.golden.map(|golden| ["--snapshot-out".into(), golden.draft().into_os_string()]);
        let said = program::validate(
            self.stage.files(),
            &switch.path(),
            draft.as_ref().map_or(&[], |words| words.as_slice()),
        )?;
        if self.interrupt.came() {
            bail!("interrupted");
        }
        let said = Said {
            report: Report::read(said.report.clone())?,
            raw: said.report,
            status: said.status,
        };
        Ok((said, began.elapsed()))
    }

    /// Keeps what the last `validate` saw, where somebody collects it.
    fn keep(&self, name: &str, said: &serde_json::Value) -> Result<()> {
        match self.golden {
            Some(golden) => golden.keep(name, said),
            None => Ok(()),
        }
    }
}

/// Every root of the continuous verdict, with whom it blames.
fn roots(report: &ClusterReport) -> Vec<(Blamed, &Finding)> {
    let cluster = report.causes.iter().map(|finding| (Blamed::Cluster, finding));
    let nodes = report
        .nodes
        .iter()
        .flat_map(|node| node.causes.iter().map(|finding| (Blamed::Node(node.name.to_string()), finding)));
    let pods = report
        .pods
        .iter()
        .flat_map(|pod| pod.causes.iter().map(|finding| (Blamed::Pod(pod.pod.to_string()), finding)));
    cluster.chain(nodes).chain(pods).collect()
}

fn names(expected: &Expectation, report: &ClusterReport) -> bool {
    roots(report)
        .iter()
        .any(|(blamed, finding)| is_expected(expected, blamed, finding.code.as_str()))
}

/// What keeps the continuous verdict from being healthy.
fn troubles(report: &ClusterReport) -> Vec<String> {
    let mut found: Vec<String> = roots(report)
        .iter()
        .map(|(blamed, finding)| format!("{} blamed on {blamed}", finding.code))
        .collect();
    for node in report.nodes.iter().filter(|node| node.verdict != Verdict::Forwarding) {
        found.push(format!(
            "{} is {:?}{}",
            node.name,
            node.verdict,
            node.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
        ));
    }
    if report.nodes.is_empty() {
        found.push("it says nothing about any node".to_owned());
    }
    found
}
