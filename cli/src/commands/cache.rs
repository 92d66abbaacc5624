//! `cache status` and `cache clear`: what lies on this machine. No key is needed: the folders are named by the repositories' ids.

use std::path::{Path, PathBuf};

use fs_core::cache::DiskCache;
use fs_core::id::RepositoryId;
use fs_core::repository::{CACHE_FOLDER, Repository, forget_pins};
use serde_json::json;

use crate::args::{Cache, Global};
use crate::error::{Exit, Failure};
use crate::output::{Output, size};
use crate::session;

pub(crate) fn run(global: &Global, command: &Cache, output: &Output) -> Result<Exit, Failure> {
    let Some(folder) = &global.cache_dir else {
        return Err(Failure::new(Exit::Usage, "it is not known where this machine keeps its caches").hint("use --cache-dir FOLDER"));
    };
    match command {
        Cache::Status { all: of_all } => {
            let named = if *of_all { None } else { named(global)? };
            let ids = named.map_or_else(|| all(folder), |id| Ok(vec![id]))?;
            ids.into_iter().try_for_each(|id| status(global, &folder.join(id.to_string()), id, output))?;
        }
        Cache::Clear { all: of_all, pinned } => {
            let ids = if *of_all { all(folder)? } else { vec![named(global)?.ok_or_else(which)?] };
            ids.into_iter().try_for_each(|id| clear(&folder.join(id.to_string()), id, *pinned, output))?;
        }
    }
    Ok(Exit::Done)
}

fn which() -> Failure {
    Failure::new(Exit::Usage, "no repository was named").hint("use --repository ADDRESS, or --all for those of all repositories")
}

/// The repository that was named, if one was.
fn named(global: &Global) -> Result<Option<RepositoryId>, Failure> {
    if global.repository.is_none() {
        return Ok(None);
    }
    Ok(Some(Repository::identify(&*session::store(global)?.as_read())?))
}

/// All repositories that this machine has fetched something of.
fn all(folder: &Path) -> Result<Vec<RepositoryId>, Failure> {
    let items = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        items => items?,
    };
    let id = |item: std::fs::DirEntry| item.path().join(CACHE_FOLDER).is_dir().then(|| item.file_name().to_str()?.parse().ok())?;
    let mut ids: Vec<_> = items.flatten().filter_map(id).collect();
    ids.sort();
    Ok(ids)
}

fn status(global: &Global, folder: &Path, id: RepositoryId, output: &Output) -> Result<(), Failure> {
    let path = folder.join(CACHE_FOLDER);
    let usage = DiskCache::usage(&path)?;
    let quota = global.cache_size.unwrap_or(session::CACHE_DEFAULT);
    let shown = path.display().to_string();
    output.show(
        || {
            let (used, pinned, quota) = (size(usage.used), size(usage.pinned), size(quota));
            format!("{id}  {used} of {quota} in {} files, {pinned} of it pinned  {shown}", usage.files)
        },
        || {
            json!({
                "type": "cache", "repository": id.to_string(), "folder": shown, "used": usage.used, "pinned": usage.pinned, "quota": quota,
                "files": usage.files, "pins": usage.pins.len(),
            })
        },
    );
    Ok(())
}

fn clear(folder: &Path, id: RepositoryId, also_pinned: bool, output: &Output) -> Result<(), Failure> {
    let path: PathBuf = folder.join(CACHE_FOLDER);
    let removed = DiskCache::clear(&path, also_pinned)?;
    if also_pinned {
        forget_pins(folder)?;
    }
    let left = DiskCache::usage(&path)?;
    output.show(
        || {
            let kept = if left.pinned > 0 { format!(", {} stay pinned (--pinned removes them too)", size(left.pinned)) } else { String::new() };
            format!("{id}  removed {}{kept}", size(removed.used))
        },
        || {
            json!({"type": "cache_cleared", "repository": id.to_string(), "bytes": removed.used, "files": removed.files, "pinned": left.pinned})
        },
    );
    Ok(())
}
