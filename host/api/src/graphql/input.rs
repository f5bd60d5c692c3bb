//! Reads arguments and input fields that are texts of a closed vocabulary or ids.

use std::str::FromStr;

use quarterdeck_model::{ProjectId, UnknownWord, UserId};

use super::fault::{Answer, Fault};

/// A word, as an error of the field when it is not in the vocabulary.
pub(crate) fn word<T: FromStr<Err = UnknownWord>>(text: &str) -> Answer<T> {
    text.parse().map_err(|e: UnknownWord| Fault(e.to_string()))
}

/// Words separated by commas; an unknown one is named in quotes.
pub(crate) fn words<T: FromStr>(text: &str) -> Answer<Vec<T>> {
    text.split(',').map(|word| word.parse().map_err(|_| Fault(format!("'{word}'")))).collect()
}

/// A UUID that the contract declares as a text.
pub(crate) fn uuid(text: &str) -> Answer<uuid::Uuid> {
    text.parse().map_err(|_| Fault("badly formed hexadecimal UUID string".to_owned()))
}

/// A project's id that the contract declares as a text.
pub(crate) fn project(text: Option<String>) -> Answer<Option<ProjectId>> {
    text.map(|t| uuid(&t).map(ProjectId)).transpose()
}

/// A user's id that the contract declares as a text.
pub(crate) fn user(text: &str) -> Answer<UserId> {
    uuid(text).map(UserId)
}

/// A list without its `null` elements.
pub(crate) fn texts(texts: Option<Vec<Option<String>>>) -> Option<Vec<String>> {
    texts.map(|texts| texts.into_iter().flatten().collect())
}
