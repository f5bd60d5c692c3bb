//! What resolvers answer when they can't.

use quarterdeck_control::Error;
use quarterdeck_control::store;

use crate::wire::{Class, Problem};

/// The message of a GraphQL error.
#[derive(Clone, Debug)]
pub(crate) struct Fault(pub(crate) String);

/// What the inside of a resolver answers.
pub(crate) type Answer<T> = Result<T, Fault>;

/// A nullable field: an error leaves `null` in its place.
pub(crate) type Maybe<T> = Option<Answer<T>>;

impl Fault {
    /// A problem of a class, without more.
    pub(crate) fn class(class: Class) -> Self {
        Self(Problem::new(class).sentence())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if matches!(error, Error::Store(_) | Error::Internal(_)) {
            tracing::error!(%error, "a GraphQL field failed");
        }
        let sentence = Problem::from(error).sentence();
        Self(sentence.strip_suffix(" ()").map(str::to_owned).unwrap_or(sentence))
    }
}

impl From<store::Error> for Fault {
    fn from(error: store::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<store::listing::Error> for Fault {
    fn from(error: store::listing::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Fault> for async_graphql::Error {
    fn from(fault: Fault) -> Self {
        Self::new(fault.0)
    }
}

/// Runs the inside of a nullable field.
pub(crate) async fn maybe<T>(work: impl Future<Output = Answer<Option<T>>>) -> Maybe<T> {
    work.await.transpose()
}

/// A list whose elements are nullable in the contract and never null here.
pub(crate) fn list<T, U: From<T>>(items: Vec<T>) -> Vec<Option<U>> {
    items.into_iter().map(|item| Some(item.into())).collect()
}
