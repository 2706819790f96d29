//! A real API server on loopback: kube-apiserver of a current release over etcd, with RBAC, ServiceAccount tokens and an audit log.
//!
//! There is no kubelet (one that serves logs is played), no scheduler and no controller: what they would write, a test writes. Everything else (admission, validation,
//! server-side apply, watches and their caches, pages, expiry, authorization) is what a cluster has.
//!
//! | file | does |
//! |---|---|
//! | [`tools`] | finds kube-apiserver (built by `cargo xtask apiserver`) and etcd, or says why there is no suite |
//! | [`pki`] | the certificates of one server |
//! | [`process`] | one daemon with its log, gone with its value |
//! | [`apply`] | objects as text or JSON become objects of the cluster, their status too |
//! | [`deploy`] | `deploy/` by `kubectl apply -k`, and what its workloads are run with |
//! | [`accounts`] | ServiceAccounts, their tokens, kubeconfigs |
//! | [`audit`] | what the server says was asked of it, and by whom |
//! | [`rbac`] | what the roles grant, rule by rule |
//! | [`kubelet`] | the kubelet of every node, as far as reading logs asks for one |
//! | [`relay`] | a way to the server that can be cut, and that counts bytes |
//! | [`mirror`] | a fabric's manifests, kept in the cluster as they change |
//! | [`synthetic`] | clusters of any size, as manifests |

pub mod accounts;
pub mod apply;
pub mod audit;
pub mod deploy;
pub mod kubelet;
pub mod mirror;
pub mod pki;
pub mod process;
pub mod rbac;
pub mod relay;
pub mod synthetic;
pub mod tools;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    api::GetParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use tokio::runtime::{Handle, Runtime};

use process::Daemon;
use tools::Tools;

use crate::lab::program;

/// How long etcd and the API server may take until they serve. A busy machine of two cores needs a third of it.
const READY_DEADLINE: Duration = Duration::from_secs(90);
/// How often they are asked.
const POLL: Duration = Duration::from_millis(50);
/// How often it is begun again with other ports, when somebody else took one in between.
const STARTS_MAX: u32 = 3;

/// Who asks is written down, for ServiceAccounts only; what they were answered is not.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: [\"system:serviceaccounts\"]
- level: None
";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// One cluster's control plane. Everything of it goes when it is dropped, also in a panic.
pub struct ApiServer {
    // Dropped in this order: who asks before who answers, and the directory last.
    runtime: Runtime,
    admin: Client,
    server: Option<Daemon>,
    etcd: Option<Daemon>,
    ports: Ports,
    tools: Tools,
    directory: Directory,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    server: u16,
    etcd: u16,
    etcd_peer: u16,
}

#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

impl ApiServer {
    /// Starts both and waits until the API server is ready.
    ///
    /// # Errors
    /// One of them does not start; the end of its log is part of the message.
    pub fn start(tools: Tools) -> Result<Self> {
        let mut failures = Vec::new();
        for _ in 0..STARTS_MAX {
            match Self::try_start(&tools) {
                Ok(server) => return Ok(server),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        bail!("no API server after {STARTS_MAX} attempts: {}", failures.join("; "))
    }

    fn try_start(tools: &Tools) -> Result<Self> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("verifier-apiserver-{}-{number}", std::process::id()));
        process::clear_strays(&std::env::temp_dir(), "verifier-apiserver-")?;
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        let directory = Directory(path);
        pki::write(&directory.0)?;
        fs::write(directory.0.join("audit-policy.yaml"), AUDIT_POLICY).context("writing the audit policy")?;
        let ports = Ports::free()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting a runtime")?;
        let text = accounts::kubeconfig(
            &address(ports.server),
            &directory.0,
            &accounts::Identity::Certificate { name: "admin" },
        );
        fs::write(directory.0.join("admin.kubeconfig"), &text).context("writing the admin's kubeconfig")?;
        let admin = runtime.block_on(client_of(&text))?;
        let mut this = Self {
            runtime,
            admin,
            server: None,
            etcd: None,
            ports,
            tools: tools.clone(),
            directory,
        };
        this.start_etcd()?;
        this.start_server()?;
        Ok(this)
    }

    fn start_etcd(&mut self) -> Result<()> {
        let (client, peer) = (plain(self.ports.etcd), plain(self.ports.etcd_peer));
        let arguments = [
            format!("--data-dir={}", self.directory.0.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ];
        self.etcd = Some(Daemon::start(&self.tools.etcd, &arguments, &self.directory.0, "etcd")?);
        Ok(())
    }

    /// Starts the API server, which must not be running, where it was before, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_server(&mut self) -> Result<()> {
        let file = |name: &str| self.directory.0.join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers={}", plain(self.ports.etcd)),
            "--bind-address=127.0.0.1".to_owned(),
            "--external-hostname=localhost".to_owned(),
            format!("--secure-port={}", self.ports.server),
            // An address of loopback is no endpoint that a cluster could be told of.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", file("generated")),
            format!("--tls-cert-file={}", file(pki::SERVER_CERTIFICATE)),
            format!("--tls-private-key-file={}", file(pki::SERVER_KEY)),
            format!("--client-ca-file={}", file(pki::CA_CERTIFICATE)),
            "--authorization-mode=RBAC".to_owned(),
            // As kubeadm has it: calico-node is privileged.
            "--allow-privileged=true".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file(pki::TOKEN_PUBLIC_KEY)),
            format!("--service-account-signing-key-file={}", file(pki::TOKEN_KEY)),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--audit-policy-file={}", file("audit-policy.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ];
        self.server = Some(Daemon::start(
            &self.tools.kube_apiserver,
            &arguments,
            &self.directory.0,
            "kube-apiserver",
        )?);
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < READY_DEADLINE {
            for daemon in [&mut self.etcd, &mut self.server].into_iter().flatten() {
                daemon.check()?;
            }
            match self.runtime.block_on(ready(&self.admin)) {
                Ok(()) => return Ok(()),
                Err(error) => last = format!("{error:#}"),
            }
            sleep(POLL);
        }
        let log = self.server.as_ref().map_or_else(String::new, Daemon::log_tail);
        bail!("the API server is not ready after {READY_DEADLINE:?}: {last}; its log: {log}")
    }

    /// `kill -9` of the API server. What it held stays in etcd.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Daemon::kill)
    }

    /// Forgets all revisions in etcd but the newest: what an API server can answer from older ones is only what it remembers itself.
    ///
    /// # Errors
    /// etcd refuses.
    pub fn compact(&self) -> Result<()> {
        process::compact(Ipv4Addr::LOCALHOST, self.ports.etcd)
    }

    /// A client that may do everything.
    #[must_use]
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// Port of the API server on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.server
    }

    /// Where its files are, and a test's own may be.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Kubeconfig of who may do everything.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.directory.0.join("admin.kubeconfig")
    }

    /// Its runtime, for what must go on while the server is changed.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Runs a future to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The end of the API server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.server.as_ref().map_or_else(String::new, Daemon::log_tail)
    }
}

async fn ready(admin: &Client) -> Result<()> {
    // The path of an object named `readyz` at the root.
    let request = Request::new("").get("readyz", &GetParams::default()).context("the path /readyz")?;
    admin.request_text(request).await.context("asking /readyz")?;
    Ok(())
}

/// A client from a kubeconfig's text.
///
/// # Errors
/// The text is none.
pub async fn client_of(text: &str) -> Result<Client> {
    let file = Kubeconfig::from_yaml(text).context("reading a kubeconfig")?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .context("using a kubeconfig")?;
    // Loopback is reached directly, whatever the environment says of the world outside.
    config.proxy_url = None;
    Client::try_from(config).context("making a client")
}

/// What a run of the program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// The report.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Said {
    /// Of a process that ended.
    #[must_use]
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// `verifier`, without what the environment of the test would tell it.
///
/// # Errors
/// The binary is not there.
pub fn verifier() -> Result<Command> {
    let mut command = Command::new(program::path()?);
    let told = ["KUBECONFIG", "NODE_NAME", "POD_NAME", "POD_NAMESPACE"];
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("VERIFIER_") || told.iter().any(|other| name == other)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs `verifier ARGUMENTS` to its end.
///
/// # Errors
/// The binary is not there.
pub fn run_verifier(arguments: &[&str]) -> Result<Said> {
    let output = verifier()?.args(arguments).output().context("running verifier")?;
    Ok(Said::of(&output))
}

/// Where a port of loopback is reached by TLS.
#[must_use]
pub fn address(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn plain(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Ports {
    /// Ports that nobody has at this moment.
    fn free() -> Result<Self> {
        // All are held until all are known, so that they differ.
        let held = (0..3)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("asking for a free port"))
            .collect::<Result<Vec<_>>>()?;
        let ports = held
            .iter()
            .map(|listener| Ok(listener.local_addr().context("reading a port")?.port()))
            .collect::<Result<Vec<_>>>()?;
        match ports[..] {
            [server, etcd, etcd_peer] => Ok(Self { server, etcd, etcd_peer }),
            _ => bail!("three ports were asked for"),
        }
    }
}
