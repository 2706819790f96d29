//! Watching manifests for changes.
//!
//! The files are looked at by name, inode, size and time of change, twice a second. That works on every file system and for every way of
//! writing (in place, by rename, by the symbolic link that a ConfigMap volume swaps), where notifications would work on some. A set of
//! files is read once it has stayed the same for two looks and is still the same after the reading, so that a half-written one is not
//! taken for a small cluster.

use super::files::{self, LoadError};
use crate::clock;
use futures_util::stream::{self, Stream};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use verifier_core::{
    evidence::{Evidence, Gap},
    intent::objects::Objects,
};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is repeated that the newest manifests cannot be read.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// Manifests in a directory, or one file.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
    look_every: Duration,
}

/// What tells one state of the files from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint(Vec<(PathBuf, u64, u64, i64, i64)>);

/// Fingerprint, or why there is none; two looks that fail alike are the same.
type Look = Result<Fingerprint, String>;

struct Watching {
    source: FileSource,
    seen: Option<Look>,
    read: Option<Look>,
    last_good: Option<Objects>,
    /// Why the newest cannot be read, and when that was last said.
    unreadable: Option<(String, u64)>,
}

impl FileSource {
    /// Manifests at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            look_every: LOOK_EVERY,
        }
    }

    /// The same, looked at more or less often.
    pub fn every(self, look_every: Duration) -> Self {
        Self { look_every, ..self }
    }

    /// Reads them once.
    ///
    /// # Errors
    /// As [`files::load`].
    pub fn load(&self) -> Result<files::Loaded, LoadError> {
        files::load(&self.path, clock::unix_now())
    }

    /// The objects now, and again after every change, for ever.
    ///
    /// While the newest manifests cannot be read the last good ones stay in force: they come again as Partial, with a gap that says why and
    /// how old they are. Before any could be read the evidence is Unavailable.
    pub fn watch(self) -> impl Stream<Item = Evidence<Objects>> + Send {
        let watching = Watching {
            source: self,
            seen: None,
            read: None,
            last_good: None,
            unreadable: None,
        };
        stream::unfold(watching, |mut watching| async move {
            let evidence = watching.next().await;
            Some((evidence, watching))
        })
    }
}

impl Watching {
    async fn next(&mut self) -> Evidence<Objects> {
        loop {
            let path = self.source.path.clone();
            let (look, fresh) = {
                let (seen, read) = (self.seen.clone(), self.read.clone());
                // File systems may block for long.
                let work = tokio::task::spawn_blocking(move || look_and_load(&path, seen.as_ref(), read.as_ref()));
                match work.await {
                    Ok(done) => done,
                    Err(error) => (Err(format!("reading manifests ended early: {error}")), None),
                }
            };
            self.seen = Some(look.clone());
            if let Some(loaded) = fresh {
                self.read = Some(look);
                return self.take(loaded);
            }
            if let Some(why) = self.reminder_due() {
                return self.keep_last_good(why);
            }
            tokio::time::sleep(self.source.look_every).await;
        }
    }

    fn reminder_due(&self) -> Option<String> {
        let (why, said_ns) = self.unreadable.as_ref()?;
        let past = clock::monotonic_ns().saturating_sub(*said_ns) >= clock::duration_ns(REMIND_EVERY);
        past.then(|| why.clone())
    }

    fn take(&mut self, loaded: Result<files::Loaded, LoadError>) -> Evidence<Objects> {
        match loaded {
            Ok(loaded) => {
                self.unreadable = None;
                self.last_good = loaded.objects.seen().cloned();
                loaded.objects
            }
            Err(error) => self.keep_last_good(error.to_string()),
        }
    }

    fn keep_last_good(&mut self, why: String) -> Evidence<Objects> {
        self.unreadable = Some((why.clone(), clock::monotonic_ns()));
        let Some(good) = &self.last_good else {
            return Evidence::unavailable("intent/files", why);
        };
        let age_seconds = clock::unix_now().since_ns(good.read_at) / 1_000_000_000;
        let mut kept = good.clone();
        let gap = Gap::new("intent/files", format!("{why}; what was read {age_seconds} s ago stays in force"));
        kept.gaps.push(gap);
        let gaps = kept.gaps.clone();
        Evidence::partial(kept, gaps)
    }
}

/// Looks, and loads where the look is new and settled: the same as the one before, and the same after the reading.
fn look_and_load(path: &Path, seen: Option<&Look>, read: Option<&Look>) -> (Look, Option<Result<files::Loaded, LoadError>>) {
    let look = fingerprint(path);
    // The very first files are read at once: there is nothing better to keep meanwhile.
    let settled = read.is_none() || seen == Some(&look);
    if read == Some(&look) || !settled {
        return (look, None);
    }
    let loaded = files::load(path, clock::unix_now());
    let after = fingerprint(path);
    if after == look || read.is_none() {
        (look, Some(loaded))
    } else {
        (after, None)
    }
}

fn fingerprint(path: &Path) -> Look {
    let files = files::manifests_at(path).map_err(|e| e.to_string())?;
    let one = |file: PathBuf| {
        let meta = fs::metadata(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok((file, meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    files.into_iter().map(one).collect::<Result<_, _>>().map(Fingerprint)
}
