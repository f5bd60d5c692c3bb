//! A policy asked about one session: the round is played, and nothing of it is written.

use std::sync::Arc;

use quarterdeck_plugin::scheduling::{Explanation, Proposal};
use quarterdeck_plugin::{Call, Failure, Limits};

use super::books::{Books, Decision};
use super::frame::Frame;
use super::{seed, snapshot};
use crate::Control;
use crate::error::{Error, Result};
use crate::policies::Bound;
use crate::quiet::PATIENCE;

/// What a policy made of a session.
#[derive(Debug)]
pub(crate) struct Consulted {
    /// What was decided when its turn came; `None`: the policy ended the round without.
    pub decision: Option<Decision>,
    /// What was proposed before its turn, in order.
    pub before: Vec<Proposal>,
    /// The policy's own words.
    pub explanation: Result<Explanation, Failure>,
}

impl Consulted {
    /// Whether a live round would have failed, so that the built-in policy takes over.
    pub(crate) fn failed(&self) -> Option<&Failure> {
        // Rounds never call `explain`, and everything else a policy does there it does here, too.
        self.explanation.as_ref().err().filter(|failure| !in_explain(failure))
    }

    /// The books as they were when the session's turn came.
    pub(crate) fn books<'f>(&self, frame: &'f Frame) -> Books<'f> {
        let mut books = Books::new(frame);
        quarterdeck_plugin::Judge::judge(&mut books, &self.before);
        books
    }
}

fn in_explain(failure: &Failure) -> bool {
    match failure {
        Failure::Trap { export, .. }
        | Failure::Timeout { export, .. }
        | Failure::Fuel { export, .. }
        | Failure::Memory { export, .. }
        | Failure::Output { export, .. }
        | Failure::Guest { export, .. } => *export == "explain",
        _ => false,
    }
}

/// Plays a round until the turn of `session` (a row of [`Frame::pending`]) and asks the policy about it, for at most
/// `candidates` agents. The policy's failure is part of the answer and counts against nobody.
///
/// # Errors
/// [`Error::Unavailable`] when too many such questions are waiting.
pub(crate) async fn consult(
    control: &Control,
    bound: &Bound,
    frame: &Arc<Frame>,
    session: usize,
    candidates: u32,
) -> Result<Consulted> {
    let (plugin, frame) = (Arc::clone(&bound.plugin), Arc::clone(frame));
    let number = u64::try_from(frame.now.micros()).unwrap_or(0);
    let mut call = Call::new(bound.config.clone());
    let limits = control.runtime().limits().clone();
    call.limits = Some(Limits { round: limits.round * PATIENCE, ..limits });
    call.seed = seed(&frame.group, number);
    call.tag = format!("{} explain", frame.group);
    let work = move || {
        let snapshot = snapshot::columns(&frame, number, call.seed, &plugin.info.columns);
        let mut books = Books::new(&*frame);
        let explanation = plugin.explain(&call, &snapshot, &mut books, session as u32, candidates);
        let (decisions, steps) = books.close();
        let proposals = steps.into_iter().flat_map(|(proposals, _)| proposals);
        let before = proposals.take_while(|p| quarterdeck_plugin::subject(p) as usize != session).collect();
        let decision = decisions.into_iter().find(|d| d.session == session);
        Consulted { decision, before, explanation }
    };
    let busy = || Error::Unavailable("Too many questions are waiting for the scheduler. Please try again.".to_owned());
    let answer = control.questions().offer(work).ok_or_else(busy)?;
    answer.await.map_err(|_| Error::Internal("a question to a scheduler broke off".to_owned()))
}
