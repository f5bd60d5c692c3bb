//! Documents that clients send again and again: read once, and kept with what is known of them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use async_graphql::ServerError;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationDefinition};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::document::{self, Order};

/// What kept documents take together, in bytes, roughly.
const CAPACITY: u64 = 32 << 20;
/// Longer ones are read each time.
const MAX_KEPT: usize = 16 << 10;
/// How many bytes are made of one byte of text, and of one field that is asked for.
const PER_BYTE: usize = 16;
const PER_FIELD: usize = 192;
/// With how many sets of variables a document is known to be valid.
const SETS: usize = 64;

/// The documents in memory.
pub(crate) struct Documents {
    known: moka::sync::Cache<String, Arc<Document>>,
    hasher: RandomState,
}

/// A document that was read.
pub(crate) struct Document {
    parsed: ExecutableDocument,
    /// Of the only operation.
    order: Option<Order>,
    /// What it was found valid with, the latest last.
    valid_with: Mutex<VecDeque<Given>>,
}

/// All that comes with a request and has a say in whether its document is valid: the operation's name and the variables, as
/// a hash. Two that are taken for each other cost nothing but words: what a resolver can't read it refuses, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given(u64);

impl Documents {
    pub(crate) fn new() -> Self {
        let weigh = |text: &String, document: &Arc<Document>| {
            let fields = document.order.as_ref().map_or(0, Order::fields);
            u32::try_from(text.len() * PER_BYTE + fields * PER_FIELD + SETS * size_of::<Given>()).unwrap_or(u32::MAX)
        };
        Self {
            known: moka::sync::Cache::builder().max_capacity(CAPACITY).weigher(weigh).build(),
            hasher: RandomState::new(),
        }
    }

    /// What comes with a request for a document.
    pub(crate) fn given(&self, operation: Option<&str>, variables: &Map<String, Value>) -> Given {
        Given(self.hasher.hash_one((operation, variables)))
    }

    /// The document of this text.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub(crate) fn read(&self, text: &str) -> Result<Arc<Document>, ServerError> {
        if let Some(document) = self.known.get(text) {
            return Ok(document);
        }
        let document = Arc::new(Document::of(document::parse(text)?));
        if text.len() <= MAX_KEPT {
            self.known.insert(text.to_owned(), Arc::clone(&document));
        }
        Ok(document)
    }
}

impl Document {
    fn of(parsed: ExecutableDocument) -> Self {
        let order = only_operation(&parsed).is_some().then(|| Order::of(&parsed, None));
        Self { parsed, order, valid_with: Mutex::default() }
    }

    pub(crate) fn parsed(&self) -> &ExecutableDocument {
        &self.parsed
    }

    /// The order of the answer's fields.
    pub(crate) fn order(&self, operation: Option<&str>) -> Cow<'_, Order> {
        match &self.order {
            Some(order) => Cow::Borrowed(order),
            None => Cow::Owned(Order::of(&self.parsed, operation)),
        }
    }

    /// Whether it was found valid with this.
    pub(crate) fn is_valid(&self, given: Given) -> bool {
        self.valid_with.lock().contains(&given)
    }

    /// Notes that it is valid with this.
    pub(crate) fn found_valid(&self, given: Given) {
        let mut sets = self.valid_with.lock();
        if sets.len() >= SETS {
            sets.pop_front();
        }
        sets.push_back(given);
    }
}

fn only_operation(document: &ExecutableDocument) -> Option<&OperationDefinition> {
    match &document.operations {
        DocumentOperations::Single(only) => Some(&only.node),
        DocumentOperations::Multiple(all) if all.len() == 1 => all.values().next().map(|only| &only.node),
        DocumentOperations::Multiple(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_are_read_once_unless_they_are_long() {
        let documents = Documents::new();
        let read = |text: &str| documents.read(text).unwrap();
        assert!(Arc::ptr_eq(&read("{ a }"), &read("{ a }")));
        let long = format!("{{ a }} #{}", "x".repeat(MAX_KEPT));
        assert!(!Arc::ptr_eq(&read(&long), &read(&long)));
        assert!(documents.read("{ a").is_err() && documents.read("{ a").is_err());
    }

    #[test]
    fn what_was_valid_is_so_with_the_same_variables() {
        let documents = Documents::new();
        let document = documents.read("query q($v: Int) { a(b: $v) }").unwrap();
        let given = |v: i32, operation| {
            let Value::Object(variables) = serde_json::json!({"v": v}) else { panic!("an object") };
            documents.given(operation, &variables)
        };
        assert!(!document.is_valid(given(1, None)));
        document.found_valid(given(1, None));
        assert!(document.is_valid(given(1, None)));
        assert!(!document.is_valid(given(2, None)) && !document.is_valid(given(1, Some("q"))));
        (2..=65).for_each(|v| document.found_valid(given(v, None)));
        assert!(!document.is_valid(given(1, None)) && document.is_valid(given(65, None)));
        assert_eq!(document.valid_with.lock().len(), SETS);
    }
}
