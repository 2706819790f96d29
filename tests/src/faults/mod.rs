//! The fault catalogue: ways in which real clusters have broken, each injected into a fabric on the
//! real kernel, with what a verifier must say about it.
//!
//! A [`Fault`] is a row: a name, a description, the incidents it stands for, how to inject it and
//! what to expect. Injecting gives an [`Undo`], which is data: one command can break a fabric and
//! another mend it.
//!
//! The blamed node is `node-b` where only one is concerned (its peers see the damage), or `node-a`
//! with `node-b` as its peer where the fault lies on the way from one to the other.

mod cast;
mod datastore;
mod encapsulation;
mod expect;
mod filters;
mod foreign;
mod impairments;
mod ipv6;
mod layer2;
mod mixed;
mod pods;
mod routes;
mod settings;
mod tunnel;
mod underlay;
mod undo;

use anyhow::{Result, anyhow};

pub use cast::Cast;
pub use expect::{Blame, Class, Expectation, Place, PodState, Verdict};
pub use undo::{Step, Undo};

use crate::{
    fabric::{Encapsulation, Fabric},
    foreign::traffic::Traffic,
};

/// What became of an injection.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The fault is in; this takes it out again.
    Injected(Undo),
    /// The machine cannot do it, and why.
    Skipped(String),
}

/// What a fault does.
#[derive(Debug, Clone, Copy)]
pub enum Injection {
    /// Changes the kernel, or the manifests.
    Fabric(fn(&Cast<'_>) -> Result<Outcome>),
    /// Concerns the agent of `node-b`, which whoever started the agents must do.
    Agent(AgentFault),
    /// Packets that last as long as the value that it gives.
    Traffic(fn(&Cast<'_>) -> Result<Traffic>),
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentFault {
    /// It is killed and stays dead.
    Dead,
    /// It is killed and started again.
    Restarts,
}

/// One row of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// unique, in kebab case
    pub name: &'static str,
    /// one line: what is wrong, and what follows
    pub description: &'static str,
    /// public reports of the same thing
    pub incidents: &'static [&'static str],
    /// how it gets in
    pub injection: Injection,
    /// what a verifier must say
    pub expect: fn(&Cast<'_>) -> Expectation,
}

/// The faults that a fabric of this encapsulation can have, in the order in which a demonstration tells them: for plain VXLAN the spine's
/// catalogue and what else can happen to its packets, for the others what is particular to them and a few that are the same everywhere.
#[must_use]
pub fn catalogue_of(encapsulation: Encapsulation) -> Vec<&'static Fault> {
    let particular = encapsulation::FAULTS
        .iter()
        .filter(|(under, _)| under.contains(&encapsulation))
        .map(|(_, fault)| fault);
    let of_ipv6 = ipv6::faults_of(encapsulation);
    let common = catalogue()
        .into_iter()
        .filter(|fault| encapsulation == Encapsulation::Vxlan || encapsulation::COMMON.contains(&fault.name));
    let of_mixed = mixed::FAULTS.iter().filter(|_| encapsulation.is_mixed());
    common.chain(particular).chain(of_ipv6).chain(of_mixed).collect()
}

/// What a network does that is bad without being broken, on a fabric of any encapsulation.
#[must_use]
pub fn impairments() -> Vec<&'static Fault> {
    impairments::FAULTS.iter().collect()
}

/// The spine's faults: those of a VXLAN fabric that change its kernel or its objects.
#[must_use]
pub fn catalogue() -> Vec<&'static Fault> {
    [
        tunnel::FAULTS,
        routes::FAULTS,
        layer2::FAULTS,
        pods::FAULTS,
        settings::FAULTS,
        filters::FAULTS,
        underlay::FAULTS,
        foreign::FAULTS,
        datastore::FAULTS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The fault of that name.
pub fn find(name: &str) -> Result<&'static Fault> {
    let particular = encapsulation::FAULTS.iter().map(|(_, fault)| fault);
    catalogue()
        .into_iter()
        .chain(particular)
        .chain(ipv6::FAULTS)
        .chain(mixed::FAULTS)
        .chain(impairments::FAULTS)
        .find(|fault| fault.name == name)
        .ok_or_else(|| anyhow!("there is no fault {name}"))
}

impl Fault {
    /// Puts the fault into the fabric. After an error in the middle the fabric must be raised anew.
    pub fn inject(&self, fabric: &Fabric) -> Result<Outcome> {
        let cast = Cast::of(fabric)?;
        match self.injection {
            Injection::Agent(_) => Ok(Outcome::Skipped(format!(
                "an agent's fault is for whoever started the agents: {}",
                self.demo(fabric.spec().encapsulation)
            ))),
            Injection::Traffic(_) => Ok(Outcome::Skipped(format!(
                "its packets flow only while somebody sends them: {}",
                self.demo(fabric.spec().encapsulation)
            ))),
            Injection::Fabric(inject) => {
                let outcome = inject(&cast)?;
                if let Outcome::Injected(undo) = &outcome {
                    fabric.remember(Some(undo.clone()))?;
                }
                Ok(outcome)
            }
        }
    }

    /// Whether it can be left standing in a fabric; else only a demonstration plays it, for as long as it takes.
    #[must_use]
    pub const fn stands(&self) -> bool {
        matches!(self.injection, Injection::Fabric(_))
    }

    /// What plays those that cannot.
    fn demo(&self, encapsulation: Encapsulation) -> String {
        let mode = encapsulation.name();
        format!("`cargo xtask demo --encapsulation {mode} --only {}` plays it", self.name)
    }

    /// What a verifier must say about it.
    pub fn expectation(&self, fabric: &Fabric) -> Result<Expectation> {
        Ok((self.expect)(&Cast::of(fabric)?))
    }
}

/// Takes out what [`Fault::inject`] put in, also when another process did.
pub fn undo(fabric: &Fabric) -> Result<()> {
    if let Some(undo) = fabric.state().undo {
        undo.apply(fabric)?;
        fabric.remember(None)?;
    }
    Ok(())
}
