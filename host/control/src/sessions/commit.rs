//! Sessions are committed: their main kernel's work directory is archived on its agent, in the background.

use std::collections::HashSet;

use quarterdeck_model::{KernelId, KernelStatus, SessionId, TaskId, Timestamp};
use quarterdeck_store::{kernels, users};

use super::{failed, find, main_kernel};
use crate::error::{Error, Result};
use crate::principal::Principal;
use crate::{Control, background_tasks};

/// An archive that is being made.
#[derive(Clone, Debug)]
pub struct Committing {
    /// The background task that can be followed.
    pub task: TaskId,
    /// The kernel.
    pub kernel: KernelId,
    /// Where the archive will be, below the agent's commit directory.
    pub path: String,
}

/// Where the archive of a session goes (`spec/session.md` §8.7).
fn archive_path(email: &str, now: Timestamp, session: &str, image: &str) -> String {
    let plain = |text: &str| text.replace([':', '/'], "-");
    let iso = now.iso();
    let (date, time) = (iso.get(..10).unwrap_or_default(), iso.get(11..19).unwrap_or_default());
    let mut clock = time.split(':');
    let mut next = || clock.next().unwrap_or_default();
    let at = format!("{date}T{}H{}M{}S", next(), next(), next());
    let name: String = session.chars().take(10).collect();
    let image = image.splitn(3, '/').last().unwrap_or_default();
    format!("{}/{}", email.replace(['@', '/'], "_"), plain(&format!("{at}_{name}_{image}.tar.gz")))
}

/// Begins to archive the work directory of a running session.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::InvalidParams`] when it doesn't run; [`Error::BadRequest`] while it is being committed;
/// [`Error::Agent`]; [`Error::Overloaded`].
pub async fn commit(control: &Control, caller: &Principal, reference: &str) -> Result<Committing> {
    let found = find(control, &caller.access_key, reference, false).await?;
    if found.main()?.status != KernelStatus::Running {
        return Err(Error::invalid("Only running sessions can be committed."));
    }
    if !being_committed(control, &[found.session.id]).await?.is_empty() {
        return Err(Error::BadRequest("The session is being committed.".to_owned()));
    }
    let (found, kernel, agent) = main_kernel(control, caller, reference).await?;
    let owner = users::get(&mut control.store().reader(), found.session.user_id).await?;
    let email = owner.map_or_else(|| found.session.user_id.to_string(), |user| user.email);
    let path = archive_path(&email, control.clock().now(), &found.session.name, &kernel.image);
    let mut under_way = agent.commit(&kernel.id.to_string(), &path).await.map_err(|error| failed(&error))?;
    let archived = path.clone();
    let task = background_tasks::start(control, "commit-session", Some(caller.user_id), move |progress| async move {
        let (mut done, mut total) = (0, 0);
        loop {
            let word = under_way.next().await.map_err(|error| failed(&error))?;
            let amount = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            progress.add_total(amount(word.total_bytes) - total);
            progress.advance(amount(word.done_bytes) - done, "Archiving");
            (done, total) = (amount(word.done_bytes), amount(word.total_bytes));
            if word.done {
                return Ok(archived);
            }
        }
    })
    .await?;
    let mut tx = control.store().begin().await?;
    kernels::set_commit_task(&mut tx, kernel.id, task).await?;
    tx.commit().await?;
    Ok(Committing { task, kernel: kernel.id, path })
}

/// The main kernel of a session, and whether it is being committed.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn commit_status(control: &Control, caller: &Principal, reference: &str) -> Result<(KernelId, bool)> {
    let found = find(control, &caller.access_key, reference, false).await?;
    let kernel = found.main()?.id;
    Ok((kernel, !being_committed(control, &[found.session.id]).await?.is_empty()))
}

/// Those of these sessions that are being committed.
///
/// # Errors
/// [`Error::Store`].
pub async fn being_committed(control: &Control, sessions: &[SessionId]) -> Result<HashSet<SessionId>> {
    Ok(kernels::being_committed(&mut control.store().reader(), sessions).await?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_have_names_that_tell_of_them() {
        let at = Timestamp(1_686_627_732_000_000);
        let path =
            archive_path("user@example.com", at, "my-long-session-name", "cr.example.com/stable/python:3.9-ubuntu");
        assert_eq!(path, "user_example.com/2023-06-13T03H42M12S_my-long-se_python-3.9-ubuntu.tar.gz");
        assert_eq!(archive_path("../a@b", at, "s", "x"), ".._a_b/2023-06-13T03H42M12S_s_x.tar.gz");
        assert!(archive_path("a@b", at, "s", "r/p/deep/name:1").ends_with("_deep-name-1.tar.gz"));
    }
}
