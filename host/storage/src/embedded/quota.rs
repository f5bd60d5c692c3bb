//! Whether there is room for more. Counting is a walk through everything that somebody has, so what was counted is
//! believed for a moment, together with what came in here since; a refusal needs a fresh count.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarterdeck_model::vfolder::FolderPath;

use super::{BELOW_SCOPE, Inner, steps, tree};
use crate::error::{Error, Result};
use crate::{Limits, Place, Room};

/// How long a count is believed. Sessions write past it in any case.
const BELIEVED: Duration = Duration::from_secs(10);

/// What was counted lately.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<HashMap<Counted, Count>>);

/// Whose bytes they are: volume, quota scope, and the folder if it is one's alone.
type Counted = (String, String, Option<FolderPath>);

#[derive(Clone, Copy, Debug)]
struct Count {
    at: Instant,
    bytes: u64,
}

fn scope_of(place: &Place) -> Counted {
    (place.volume.clone(), place.folder.scope.clone(), None)
}

fn folder_of(place: &Place) -> Counted {
    (place.volume.clone(), place.folder.scope.clone(), Some(place.folder.clone()))
}

impl Counts {
    fn known(&self, of: &Counted) -> Option<u64> {
        self.0.lock().get(of).filter(|count| count.at.elapsed() < BELIEVED).map(|count| count.bytes)
    }

    fn learn(&self, of: Counted, bytes: u64) {
        let mut counts = self.0.lock();
        counts.retain(|_, count| count.at.elapsed() < BELIEVED);
        counts.insert(of, Count { at: Instant::now(), bytes });
    }

    /// So many bytes came into a folder.
    pub(super) fn add(&self, place: &Place, bytes: u64) {
        let mut counts = self.0.lock();
        for of in [scope_of(place), folder_of(place)] {
            if let Some(count) = counts.get_mut(&of) {
                count.bytes = count.bytes.saturating_add(bytes);
            }
        }
    }
}

impl Inner {
    /// Whether a folder and its owner may hold `size` bytes more.
    pub(super) fn room(&self, place: &Place, size: u64, limits: Limits) -> Result<Room> {
        if limits.folder.is_none() && limits.scope.is_none() {
            return Ok(Room::Enough);
        }
        let believed = (self.counts.known(&folder_of(place)), self.counts.known(&scope_of(place)));
        let needed = |limit: Option<u64>, bytes: Option<u64>| if limit.is_some() { bytes } else { Some(0) };
        if let (Some(folder), Some(scope)) = (needed(limits.folder, believed.0), needed(limits.scope, believed.1))
            && judged(size, limits, folder, scope) == Room::Enough
        {
            return Ok(Room::Enough);
        }
        let (folder, scope) = self.count(place, limits)?;
        Ok(judged(size, limits, folder, scope))
    }

    /// Counts what the limits are about, in one walk; nothing else.
    fn count(&self, place: &Place, limits: Limits) -> Result<(u64, u64)> {
        if limits.scope.is_none() {
            let bytes = u64::try_from(tree::usage(&self.folder(place)?, None).used_bytes).unwrap_or_default();
            self.counts.learn(folder_of(place), bytes);
            return Ok((bytes, 0));
        }
        let part: PathBuf =
            std::iter::once(".").map(str::to_owned).chain(steps(&place.folder).into_iter().skip(1)).collect();
        let (scope, folder) = match self.volume(&place.volume)?.dir.open_dir(&place.folder.scope) {
            Ok(dir) => tree::bytes_with_part(&dir, BELOW_SCOPE, &part),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (0, 0),
            Err(error) => return Err(Error::io(&error)),
        };
        self.counts.learn(scope_of(place), scope);
        self.counts.learn(folder_of(place), folder);
        Ok((folder, scope))
    }
}

fn judged(size: u64, limits: Limits, folder: u64, scope: u64) -> Room {
    let over = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used.saturating_add(size) > limit);
    if over(limits.folder, folder) {
        Room::FolderFull
    } else if over(limits.scope, scope) {
        Room::OwnerFull
    } else {
        Room::Enough
    }
}
