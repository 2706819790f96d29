//! A fabric with its agents as one value: up together, gone together, whatever happens in between.

use anyhow::{Context, Result};

use super::agents::{self, Agent, Intent};
use super::{Files, Turn, program};
use crate::fabric::{Fabric, FabricSpec};

/// A standing fabric and its agents. Both go when it is dropped, unless it was left standing.
#[derive(Debug)]
pub struct Stage {
    fabric: Fabric,
    files: Files,
    agents: Vec<Agent>,
    intent: Intent,
    leave: bool,
    _turn: Turn,
}

impl Stage {
    /// Raises the fabric, replacing one that stands, and makes a key. Agents are started by [`Stage::start_agents`].
    ///
    /// # Errors
    /// Somebody else is at work on that fabric, or it cannot be raised; then nothing is left behind.
    pub fn raise(spec: FabricSpec, files: Files) -> Result<Self> {
        let prefix = spec.prefix.clone();
        let turn = Turn::take(&prefix)?;
        agents::stop_strays(&prefix)?;
        let raised = Fabric::up(spec, Some(&files.manifests())).context("raising the fabric");
        let fabric = match raised {
            Ok(fabric) => fabric,
            Err(error) => {
                return match Fabric::down(&prefix) {
                    Ok(()) => Err(error),
                    Err(also) => Err(error.context(format!("and it could not be removed again: {also:#}"))),
                };
            }
        };
        let stage = Self {
            fabric,
            files,
            agents: Vec::new(),
            intent: Intent::default(),
            leave: false,
            _turn: turn,
        };
        program::make_key(&stage.files.key())?;
        Ok(stage)
    }

    /// The fabric.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The agents that run.
    #[must_use]
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// Where agents that are started from now on get intent from.
    pub fn set_intent(&mut self, intent: Intent) {
        self.intent = intent;
    }

    /// One agent on each node that has none; returns when all are ready.
    ///
    /// # Errors
    /// One of them does not get ready.
    pub fn start_agents(&mut self) -> Result<()> {
        self.start_agents_on(|_| true)
    }

    /// One agent on each of some nodes that has none; returns when all agents are ready.
    ///
    /// # Errors
    /// One of them does not get ready.
    pub fn start_agents_on(&mut self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for node in self.fabric.nodes() {
            if wanted(&node.name) && !self.agents.iter().any(|agent| agent.node == node.name) {
                self.agents
                    .push(Agent::start(&self.files, &self.intent, &node.netns, &node.name, node.host_ip)?);
            }
        }
        self.agents.iter_mut().try_for_each(|agent| agent.wait_ready(&self.files))
    }

    /// Stops all agents in good order, so that nothing of them is attached any more.
    ///
    /// # Errors
    /// One did not stop by itself.
    pub fn stop_agents(&mut self) -> Result<()> {
        self.agents.drain(..).try_for_each(|mut agent| agent.stop())
    }

    /// `kill -9` of one node's agent.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_agent(&mut self, node: &str) -> Result<()> {
        let at = self
            .agents
            .iter()
            .position(|agent| agent.node == node)
            .with_context(|| format!("{node} has no agent"))?;
        self.agents.remove(at).kill()
    }

    /// Lets everything stand when this value goes.
    pub fn leave_standing(&mut self) {
        self.leave = true;
    }

    /// Takes everything down, the agents' logs excepted, and says what could not be.
    ///
    /// # Errors
    /// Something is left behind.
    pub fn strike(mut self) -> Result<()> {
        self.leave = true;
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        let prefix = self.fabric.spec().prefix.clone();
        // Each step is tried, whatever became of the one before.
        let stopped = self.stop_agents();
        let strays = agents::stop_strays(&prefix).map(|_| ());
        let removed = Fabric::down(&prefix);
        let secrets = self.files.remove_all_but_logs();
        stopped.and(strays).and(removed).and(secrets)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.leave
            && let Err(error) = self.clear()
        {
            eprintln!("something is left behind: {error:#}");
        }
    }
}
