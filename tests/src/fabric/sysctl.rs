//! Kernel settings of the namespace that the calling thread is in: `/proc/sys/net` follows the
//! thread that opens it.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// Writes `/proc/sys/KEY`; the key's parts are separated by `/` because device names have dots.
pub fn set(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(key);
    fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
}

/// Like [`set`], for a setting that this kernel may not have.
pub fn set_if_there(key: &str, value: &str) -> Result<()> {
    if Path::new("/proc/sys").join(key).exists() {
        set(key, value)
    } else {
        Ok(())
    }
}

/// Reads `/proc/sys/KEY`, without the line end.
pub fn get(key: &str) -> Result<String> {
    let path = Path::new("/proc/sys").join(key);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}
