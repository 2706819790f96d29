//! Objects from the API server: once, or followed for ever.
//!
//! Each kind is listed and then watched from the version of its list. Lists come in pages and count only when whole; a watch resumes from
//! the last version it heard of (bookmarks move it along), and a version that the server has forgotten (410) leads to a new list. This is
//! done here and not by the client's library, because its watcher does not tell when a quiet watch is up again after an outage, and the age of
//! what is known must stand in every verdict.

use super::{
    client::{Trouble, chain},
    kinds::{self, Read, Scope, Served},
    store::{Item, Store, Told, Unreadable},
};
use crate::{clock, intent::files};
use futures_util::{StreamExt as _, stream};
use kube::{
    Api, Client,
    api::{ListParams, WatchParams},
    core::{DynamicObject, ResourceExt as _, WatchEvent},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use verifier_core::{
    evidence::Evidence,
    intent::objects::{ObjectKey, Objects},
    names::UnixNs,
};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// How long the server keeps a watch open, s.
const WATCH_SECONDS: u32 = 290;
/// Silence after which a watch is taken for dead. The server sends a bookmark about once a minute.
const SILENCE: Duration = Duration::from_secs(150);
/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Changes within this time make one new set.
const GATHER: Duration = Duration::from_millis(200);
/// How often it is said again, while something fails, how old the rest is.
const REMIND: Duration = Duration::from_secs(30);
/// How often it is asked which kinds are served, while some are not.
const DISCOVER: Duration = Duration::from_secs(10);
/// Messages that may wait.
const WAITING_MAX: usize = 64;

/// Objects of a cluster.
#[derive(Clone)]
pub struct KubeSource {
    client: Client,
    scope: Scope,
    as_of: Arc<AtomicU64>,
}

struct Watching {
    source: KubeSource,
    store: Store,
    tasks: JoinSet<()>,
    sender: mpsc::Sender<(String, Told)>,
    receiver: mpsc::Receiver<(String, Told)>,
    served: Option<Served>,
    discover_at: Instant,
    emit_at: Option<Instant>,
    emitted: bool,
}

impl KubeSource {
    /// The objects that answer `scope`'s questions.
    pub fn new(client: Client, scope: Scope) -> Self {
        Self {
            client,
            scope,
            as_of: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Up to when the objects given last are the truth; none while all watches are up.
    pub fn behind_since(&self) -> Option<UnixNs> {
        match self.as_of.load(Ordering::Relaxed) {
            0 => None,
            at => Some(UnixNs(at)),
        }
    }

    /// The objects now, and again after every change, for ever.
    pub fn watch(self) -> impl stream::Stream<Item = Evidence<Objects>> + Send {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let watching = Watching {
            source: self,
            store: Store::default(),
            tasks: JoinSet::new(),
            sender,
            receiver,
            served: None,
            discover_at: Instant::now(),
            emit_at: None,
            emitted: false,
        };
        stream::unfold(watching, |mut watching| async move {
            let evidence = watching.next().await;
            Some((evidence, watching))
        })
    }

    /// The objects, once. What has not been answered within `patience` is a gap.
    pub async fn load(self, patience: Duration) -> Evidence<Objects> {
        let mut objects = std::pin::pin!(self.watch());
        match tokio::time::timeout(patience, objects.next()).await {
            Ok(Some(evidence)) => evidence,
            Ok(None) | Err(_) => Evidence::unavailable(
                "intent/kubernetes",
                format!(
                    "the API server did not answer within {} s: is it up, and reachable from here?",
                    patience.as_secs()
                ),
            ),
        }
    }
}

impl Watching {
    async fn next(&mut self) -> Evidence<Objects> {
        if self.tasks.is_empty() {
            for read in kinds::kubernetes(&self.source.scope) {
                self.follow(read);
            }
        }
        loop {
            let emit_at = self.emit_at.unwrap_or(self.discover_at);
            tokio::select! {
                told = self.receiver.recv() => {
                    if let Some((name, told)) = told {
                        self.take(&name, told);
                    }
                }
                () = tokio::time::sleep_until(self.discover_at) => self.discover().await,
                () = tokio::time::sleep_until(emit_at), if self.emit_at.is_some() => return self.emit(),
            }
        }
    }

    fn take(&mut self, name: &str, told: Told) {
        let changed = self.store.take(name, told, clock::unix_now());
        for (namespace, name) in self.store.wanted_config_maps() {
            self.follow(kinds::config_map(&namespace, &name));
        }
        // The first set waits until every list was answered: half a cluster is no cluster.
        let whole = self.emitted || self.store.is_answered(self.served.is_some());
        if whole && (changed || !self.emitted) && self.emit_at.is_none_or(|at| at > Instant::now() + GATHER) {
            self.emit_at = Some(Instant::now() + GATHER);
        }
    }

    fn emit(&mut self) -> Evidence<Objects> {
        let now = clock::unix_now();
        self.emitted = true;
        let troubled = self.store.is_troubled();
        self.emit_at = troubled.then(|| Instant::now() + REMIND);
        let as_of = self.store.as_of(now);
        self.source.as_of.store(if as_of == now { 0 } else { as_of.0 }, Ordering::Relaxed);
        self.store.evidence(now)
    }

    async fn discover(&mut self) {
        self.discover_at = Instant::now() + DISCOVER;
        match kinds::discover(&self.source.client).await {
            Ok(served) => {
                for read in &served.reads {
                    self.follow(read.clone());
                }
                if served.absent.is_empty() {
                    // A kind that vanishes later shows as a list that fails.
                    self.discover_at = Instant::now() + Duration::from_secs(24 * 3600);
                }
                if self.store.set_absent(served.absent.clone()) && self.emitted {
                    self.emit_at = Some(Instant::now() + GATHER);
                }
                self.served = Some(served);
            }
            Err(why) => self.store.discovery_failed(Trouble::Away { why }, clock::unix_now()),
        }
        self.take("", Told::Current);
    }

    fn follow(&mut self, read: Read) {
        let name = read.name();
        if self.store.has(&name) {
            return;
        }
        self.store.add(read.clone());
        let (client, sender) = (self.source.client.clone(), self.sender.clone());
        self.tasks.spawn(async move { follow(&client, &read, &name, &sender).await });
    }
}

/// Why a list or a watch came to its end.
enum End {
    /// What it knew is too old: list again.
    Relist(Option<Trouble>),
    /// Go on from here.
    Resume(Option<Trouble>),
    /// Nobody listens any more.
    Unheard,
}

/// Lists, watches, and begins again, until nobody listens.
async fn follow(client: &Client, read: &Read, name: &str, sender: &mpsc::Sender<(String, Told)>) {
    let api: Api<DynamicObject> = match &read.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &read.resource),
        None => Api::all_with(client.clone(), &read.resource),
    };
    let tell = |told: Told| async { sender.send((name.to_owned(), told)).await.is_ok() };
    let mut pause = PAUSE.0;
    let mut version: Option<String> = None;
    loop {
        let end = match version.take() {
            None => match list(&api, read).await {
                Ok((items, at)) => {
                    version = Some(at);
                    pause = PAUSE.0;
                    if !tell(Told::Listed(items)).await {
                        return;
                    }
                    continue;
                }
                Err(trouble) => End::Relist(Some(trouble)),
            },
            Some(mut at) => {
                let end = watch(&api, read, &mut at, &mut pause, &tell).await;
                version = Some(at);
                end
            }
        };
        let trouble = match end {
            End::Unheard => return,
            End::Relist(trouble) => {
                version = None;
                trouble
            }
            End::Resume(trouble) => trouble,
        };
        if let Some(trouble) = trouble {
            if !tell(Told::Failed(trouble)).await {
                return;
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

async fn list(api: &Api<DynamicObject>, read: &Read) -> Result<(Vec<Item>, String), Trouble> {
    let mut params = ListParams {
        limit: Some(PAGE),
        field_selector: read.fields.clone(),
        label_selector: read.labels.clone(),
        ..ListParams::default()
    };
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await.map_err(|error| Trouble::of(&error))?;
        items.extend(page.items.into_iter().map(|object| item(read, object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                let unversioned = || Trouble::Away {
                    why: "the list has no resourceVersion".to_owned(),
                };
                return Ok((items, version.ok_or_else(unversioned)?));
            }
        }
    }
}

async fn watch<F, Fut>(api: &Api<DynamicObject>, read: &Read, version: &mut String, pause: &mut Duration, tell: &F) -> End
where
    F: Fn(Told) -> Fut,
    Fut: Future<Output = bool>,
{
    let params = WatchParams {
        field_selector: read.fields.clone(),
        label_selector: read.labels.clone(),
        timeout: Some(WATCH_SECONDS),
        ..WatchParams::default()
    };
    let mut events = match api.watch(&params, version).await {
        Ok(events) => events.boxed(),
        Err(error) => return ended(Trouble::of(&error)),
    };
    // The server took up the watch from our version: what is missing comes now.
    if !tell(Told::Current).await {
        return End::Unheard;
    }
    *pause = PAUSE.0;
    loop {
        let event = match tokio::time::timeout(SILENCE, events.next()).await {
            Ok(Some(event)) => event,
            Ok(None) | Err(_) => return End::Resume(None),
        };
        let told = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                version_of(&object, version);
                Told::Applied(Box::new(item(read, object)))
            }
            Ok(WatchEvent::Deleted(object)) => {
                version_of(&object, version);
                Told::Deleted(key(read, &object))
            }
            Ok(WatchEvent::Bookmark(mark)) => {
                *version = mark.metadata.resource_version;
                Told::Current
            }
            Ok(WatchEvent::Error(status)) => return ended(Trouble::of_code(status.code, &status.message)),
            Err(error) => return ended(Trouble::Away { why: chain(&error) }),
        };
        if !tell(told).await {
            return End::Unheard;
        }
    }
}

fn ended(trouble: Trouble) -> End {
    match trouble {
        // By itself no trouble: the new list is the answer.
        Trouble::Expired => End::Relist(None),
        Trouble::NotFound => End::Relist(Some(trouble)),
        other => End::Resume(Some(other)),
    }
}

fn version_of(object: &DynamicObject, version: &mut String) {
    if let Some(new) = object.resource_version().filter(|new| !new.is_empty()) {
        *version = new;
    }
}

fn key(read: &Read, object: &DynamicObject) -> ObjectKey {
    ObjectKey {
        kind: read.kind,
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

/// The object as intent takes it, the same reading as of files.
fn item(read: &Read, object: DynamicObject) -> Item {
    let key = key(read, &object);
    let unreadable = |why: String| Unreadable { key: key.clone(), why };
    let mut value = object.data;
    let metadata = serde_json::to_value(&object.metadata).map_err(|error| unreadable(error.to_string()))?;
    match value.as_object_mut() {
        Some(fields) => fields.insert("metadata".to_owned(), metadata),
        None => return Err(unreadable("it is no mapping".to_owned())),
    };
    files::read(read.kind, value).map_err(unreadable)
}

/// Half to the whole of `pause`: what lost the server together must not come back together.
fn jittered(pause: Duration) -> Duration {
    let byte = crate::agent::keys::random::<1>().map_or(128, |[byte]| byte);
    pause / 2 + pause / 2 * u32::from(byte) / 255
}
