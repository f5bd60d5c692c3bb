//! Who has folders that sessions get by themselves: asked with every session, so those who come together ask together.

use std::sync::Arc;

use parking_lot::Mutex;
use quarterdeck_model::UserId;
use quarterdeck_store::{Reader, vfolders};
use tokio::sync::oneshot;

use crate::error::Result;

/// Gathers the questions of requests that are under way at the same time.
#[derive(Clone, Debug, Default)]
pub(crate) struct DotFolders {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Those whose question has not begun to be asked.
    questions: Vec<(UserId, oneshot::Sender<bool>)>,
    /// Whether somebody asks for them.
    is_asked: bool,
}

impl DotFolders {
    /// Whether a user has any, as a member. The database is asked after the call began, so that what was committed before
    /// it counts.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn has(&self, reader: &Reader, user: UserId) -> Result<bool> {
        let (reply, answer) = oneshot::channel();
        let begins = {
            let mut waiting = self.waiting.lock();
            waiting.questions.push((user, reply));
            !std::mem::replace(&mut waiting.is_asked, true)
        };
        if begins {
            // A task of its own: others count on it, even when this request is given up.
            tokio::spawn(ask(Arc::clone(&self.waiting), reader.clone()));
        }
        match answer.await {
            Ok(has) => Ok(has),
            // They couldn't be answered together; the error is each one's own.
            Err(_) => Ok(!vfolders::with_dot_folders(&mut reader.clone(), &[user]).await?.is_empty()),
        }
    }
}

/// Asks until nobody waits.
async fn ask(waiting: Arc<Mutex<Waiting>>, mut reader: Reader) {
    loop {
        let questions = {
            let mut waiting = waiting.lock();
            if waiting.questions.is_empty() {
                waiting.is_asked = false;
                return;
            }
            std::mem::take(&mut waiting.questions)
        };
        let mut users: Vec<UserId> = questions.iter().map(|(user, _)| *user).collect();
        users.sort_unstable();
        users.dedup();
        match vfolders::with_dot_folders(&mut reader, &users).await {
            Ok(found) => {
                for (user, reply) in questions {
                    let _ = reply.send(found.contains(&user));
                }
            }
            Err(error) => tracing::debug!(%error, users = users.len(), "each request asks for its own folders"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::future::join_all;
    use quarterdeck_store::testing;

    use super::*;

    #[tokio::test]
    async fn those_who_come_together_ask_together() {
        for db in testing::databases().await {
            let (folders, reader) = (DotFolders::default(), db.store.reader());
            let users: Vec<UserId> = (0..50).map(|_| UserId::new()).collect();
            let before = db.store.statements();
            let answers = join_all(users.iter().map(|user| folders.has(&reader, *user))).await;
            assert!(answers.into_iter().all(|answer| !answer.unwrap()));
            assert_eq!(db.store.statements() - before, 1);
            // Nobody is left behind, and the next one has an answer of its own.
            assert!(!folders.has(&reader, users[0]).await.unwrap());
            assert_eq!(db.store.statements() - before, 2);
        }
    }

    #[tokio::test]
    async fn an_error_is_everybodys_own() {
        let db = testing::sqlite().await;
        let (folders, reader) = (DotFolders::default(), db.store.reader());
        db.store.close().await;
        let answers = join_all((0..3).map(|_| folders.has(&reader, UserId::new()))).await;
        assert!(answers.into_iter().all(|answer| answer.is_err()));
    }
}
