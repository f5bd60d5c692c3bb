//! Reads query documents, and refuses those that cost more than any honest one before they do.

use std::collections::HashMap;

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::parse_query;
use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, OperationDefinition, Selection, SelectionSet,
};
use async_graphql::{Name, Pos, Positioned, ServerError, Value as ConstValue, Variables};
use serde_json::{Map, Value};

use super::MAX_FIELDS;

/// How deep brackets may nest, of all kinds together.
const MAX_NESTING: usize = 100;

/// Parses a document.
///
/// # Errors
/// What is wrong with it, with its place.
pub(crate) fn parse(query: &str) -> Result<ExecutableDocument, ServerError> {
    check_nesting(query)?;
    let document = parse_query(query).map_err(|error| {
        let mut error = ServerError::from(error);
        let place = error.locations.first().map(|at| format!(" ({}:{})", at.line, at.column)).unwrap_or_default();
        error.message = format!("Syntax Error GraphQL{place} {}", error.message.trim());
        error
    })?;
    check_size(&document)?;
    Ok(document)
}

/// Whether the client must say which operation it wants.
pub(crate) fn is_ambiguous(document: &ExecutableDocument, operation: Option<&str>) -> bool {
    matches!(&document.operations, DocumentOperations::Multiple(all) if all.len() > 1) && operation.is_none()
}

/// Where a document's text stands, as far as brackets are concerned.
#[derive(Clone, Copy, PartialEq)]
enum In {
    Code,
    Comment,
    Text,
    BlockText,
}

const BLOCK: &[u8] = b"\"\"\"";

/// Whether a block text ends.
fn ends(mut text: &[u8]) -> bool {
    loop {
        match text {
            [] => return false,
            [b'\\', rest @ ..] if rest.starts_with(BLOCK) => text = &rest[3..],
            _ if text.starts_with(BLOCK) => return true,
            [_, rest @ ..] => text = rest,
        }
    }
}

/// The parser calls itself for each bracket, so that enough of them would exhaust the stack.
fn check_nesting(query: &str) -> Result<(), ServerError> {
    let (mut depth, mut line, mut column) = (0usize, 1, 0);
    let mut place = In::Code;
    let mut rest = query.as_bytes();
    let mut endless = false;
    // From where the first search finds nothing, no later one finds anything.
    let mut has_end = |text: &[u8]| {
        endless = endless || !ends(text);
        !endless
    };
    // All that matters is ASCII, and no part of a longer character is.
    while let [byte, ..] = rest {
        let mut width = 1;
        match (place, byte) {
            (In::Code, b'"') if rest.starts_with(BLOCK) => match has_end(&rest[3..]) {
                true => (place, width) = (In::BlockText, 3),
                // Without an end the parser takes it for an empty text and the begin of another.
                false => width = 2,
            },
            (In::Code, b'"') => place = In::Text,
            (In::Code, b'#') => place = In::Comment,
            (In::Code, b'{' | b'[' | b'(') => {
                depth += 1;
                if depth > MAX_NESTING {
                    let column = column + 1;
                    let message = format!("Syntax Error GraphQL ({line}:{column}) Nested too deeply");
                    return Err(ServerError::new(message, Some(Pos { line, column })));
                }
            }
            (In::Code, b'}' | b']' | b')') => depth = depth.saturating_sub(1),
            // A line's end ends what can't go on behind it. The parser refuses texts that do.
            (In::Comment | In::Text, b'\n' | b'\r') => place = In::Code,
            (In::Text, b'"') => place = In::Code,
            // Not what ends the line, or the end of a comment might hide behind it.
            (In::Text, b'\\') if !matches!(rest.get(1), None | Some(b'\n' | b'\r')) => width = 2,
            (In::BlockText, b'"') if rest.starts_with(BLOCK) => (place, width) = (In::Code, 3),
            (In::BlockText, b'\\') if rest[1..].starts_with(BLOCK) => width = 4,
            _ => {}
        }
        if *byte == b'\n' || (*byte == b'\r' && rest.get(1) != Some(&b'\n')) {
            (line, column) = (line + 1, 0);
        } else {
            // Characters are counted by their first byte.
            column += rest[..width.min(rest.len())].iter().filter(|b| **b & 0xc0 != 0x80).count();
        }
        rest = &rest[width.min(rest.len())..];
    }
    Ok(())
}

/// How many fields each operation has when its fragments are spread, each in all its places.
fn check_size(document: &ExecutableDocument) -> Result<(), ServerError> {
    let mut sizes = HashMap::new();
    for (_, operation) in document.operations.iter() {
        let size = size(document, &operation.node.selection_set.node, &mut sizes)?;
        if size > MAX_FIELDS {
            return Err(ServerError::new("Query is too complex.", Some(operation.pos)));
        }
    }
    Ok(())
}

/// `None` in `sizes` means that the fragment is being measured.
fn size<'d>(
    document: &'d ExecutableDocument,
    set: &'d SelectionSet,
    sizes: &mut HashMap<&'d Name, Option<usize>>,
) -> Result<usize, ServerError> {
    let mut total = 0usize;
    for item in &set.items {
        let more = match &item.node {
            Selection::Field(field) => 1 + size(document, &field.node.selection_set.node, sizes)?,
            Selection::InlineFragment(fragment) => size(document, &fragment.node.selection_set.node, sizes)?,
            Selection::FragmentSpread(spread) => {
                let name = &spread.node.fragment_name.node;
                match (sizes.get(name), document.fragments.get_key_value(name)) {
                    (Some(Some(known)), _) => *known,
                    (Some(None), _) => {
                        let message = format!("Cannot spread fragment \"{name}\" within itself.");
                        return Err(ServerError::new(message, Some(item.pos)));
                    }
                    // Whether it exists is for the validation to say.
                    (None, None) => 0,
                    (None, Some((name, fragment))) => {
                        sizes.insert(name, None);
                        let measured = size(document, &fragment.node.selection_set.node, sizes)?;
                        sizes.insert(name, Some(measured));
                        measured
                    }
                }
            }
        };
        // Also counts spreads of empty fragments, so that their number is bounded, too.
        total = total.saturating_add(more.max(1));
    }
    Ok(total)
}

/// The operation that will run.
fn chosen<'d>(
    document: &'d ExecutableDocument,
    operation: Option<&str>,
) -> Option<&'d Positioned<OperationDefinition>> {
    match (&document.operations, operation) {
        (DocumentOperations::Single(only), _) => Some(only),
        (DocumentOperations::Multiple(all), Some(name)) => all.get(name),
        (DocumentOperations::Multiple(all), None) => all.values().next(),
    }
}

/// What is wrong with the variables of the operation that will run: those that it needs must be there.
pub(crate) fn missing_variable(
    document: &ExecutableDocument,
    operation: Option<&str>,
    variables: &Map<String, Value>,
) -> Option<ServerError> {
    chosen(document, operation)?.node.variable_definitions.iter().find_map(|definition| {
        let (name, kind) = (&definition.node.name.node, &definition.node.var_type.node);
        let given = variables.get(name.as_str()).is_some_and(|value| !value.is_null());
        let needed = !kind.nullable && definition.node.default_value.is_none();
        (needed && !given).then(|| {
            let message = format!("Variable \"${name}\" of required type \"{kind}\" was not provided.");
            ServerError::new(message, Some(definition.pos))
        })
    })
}

/// Variables from JSON. Numbers keep the precision that they were written with.
pub(crate) fn variables(map: Map<String, Value>) -> Variables {
    Variables::from_value(ConstValue::Object(map.into_iter().map(|(name, v)| (Name::new(name), constant(v))).collect()))
}

fn constant(value: Value) -> ConstValue {
    match value {
        Value::Null => ConstValue::Null,
        Value::Bool(flag) => ConstValue::Boolean(flag),
        Value::Number(number) => ConstValue::Number(number),
        Value::String(text) => ConstValue::String(text),
        Value::Array(items) => ConstValue::List(items.into_iter().map(constant).collect()),
        Value::Object(entries) => {
            ConstValue::Object(entries.into_iter().map(|(name, v)| (Name::new(name), constant(v))).collect())
        }
    }
}

/// The fields that an operation asks for, in their order, by their names in the answer.
///
/// The language's specification (6.4.3) wants answers in this order and clients rely on it, but the engine writes fields
/// down in the order in which they were resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order(IndexMap<Name, Order>);

impl Order {
    /// The order of a document that was [parsed](parse) here: its fragments are finite.
    pub(crate) fn of(document: &ExecutableDocument, operation: Option<&str>) -> Self {
        let mut order = Self::default();
        if let Some(chosen) = chosen(document, operation) {
            order.add(document, &chosen.node.selection_set.node);
        }
        order
    }

    fn add(&mut self, document: &ExecutableDocument, set: &SelectionSet) {
        for item in &set.items {
            match &item.node {
                Selection::Field(field) => {
                    let below = self.0.entry(field.node.response_key().node.clone()).or_default();
                    below.add(document, &field.node.selection_set.node);
                }
                Selection::InlineFragment(fragment) => self.add(document, &fragment.node.selection_set.node),
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = document.fragments.get(&spread.node.fragment_name.node) {
                        self.add(document, &fragment.node.selection_set.node);
                    }
                }
            }
        }
    }

    /// How many fields it has, those below others included.
    pub(crate) fn fields(&self) -> usize {
        self.0.values().map(|below| 1 + below.fields()).sum()
    }

    /// Puts the fields of an answer in this order.
    pub(crate) fn arrange(&self, answer: &mut ConstValue) {
        match answer {
            // What nothing is asked of is a scalar, whatever it looks like.
            _ if self.0.is_empty() => {}
            ConstValue::Object(fields) => {
                if !fields.keys().is_sorted_by_key(|name| self.0.get_index_of(name)) {
                    fields.sort_by_cached_key(|name, _| self.0.get_index_of(name));
                }
                for (name, value) in fields.iter_mut() {
                    if let Some(below) = self.0.get(name) {
                        below.arrange(value);
                    }
                }
            }
            ConstValue::List(items) => items.iter_mut().for_each(|item| self.arrange(item)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn syntax_errors_tell_where() {
        let error = parse("query { domain {").unwrap_err();
        assert!(error.message.starts_with("Syntax Error GraphQL (1:"), "{}", error.message);
        assert_eq!(error.locations.len(), 1);
    }

    #[test]
    fn operations_must_be_chosen() {
        let two = parse("query a { x } query b { y }").unwrap();
        assert!(is_ambiguous(&two, None) && !is_ambiguous(&two, Some("a")));
        assert!(!is_ambiguous(&parse("query a { x }").unwrap(), None));
        assert!(!is_ambiguous(&parse("{ x }").unwrap(), None));
    }

    #[test]
    fn variables_that_are_needed_must_be_there() {
        let document = parse("query a($n: Int!, $o: Int, $d: Int! = 1) { x } query b($m: [ID!]!) { x }").unwrap();
        let told = |operation: &str, variables: Value| {
            let Value::Object(variables) = variables else { panic!("variables are an object") };
            missing_variable(&document, Some(operation), &variables).map(|error| error.message)
        };
        assert_eq!(told("a", serde_json::json!({"n": 1})), None);
        let expected = "Variable \"$n\" of required type \"Int!\" was not provided.";
        assert_eq!(told("a", serde_json::json!({"n": null})).as_deref(), Some(expected));
        assert_eq!(told("a", serde_json::json!({"o": 1})).as_deref(), Some(expected));
        assert_eq!(told("c", serde_json::json!({})), None, "there is none: that is told elsewhere");
        assert!(told("b", serde_json::json!({})).unwrap().contains("\"[ID!]!\""));
    }

    #[test]
    fn nesting_ends_before_the_stack_does() {
        for (open, close) in [("{a", "}"), ("{a(b:[", "])}")] {
            let deep = format!("{}{}", open.repeat(100_000), close.repeat(100_000));
            assert!(parse(&deep).unwrap_err().message.contains("Nested too deeply"));
        }
        let lists = format!("{{ a(b: {}1{}) }}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(parse(&lists).unwrap_err().message.contains("Nested too deeply"));
        let harmless = format!("{{ a(b: \"{}\") # {}\n }}", "[".repeat(500), "{".repeat(500));
        assert!(parse(&harmless).is_ok());
    }

    #[test]
    fn brackets_count_wherever_the_parser_sees_them() {
        let deep = format!("{{ a{} }}", "{a".repeat(100_000));
        for before in [
            "# a comment\r",
            "# \" a comment\r\n",
            "# \"\"\" one\r",
            "query q($a: S = \"\"\" \" \"\"\") ",
            "query q($a: S = \"\"\" \\\"\"\" \" \"\"\") ",
            "query q($a: S = \"\"\"\\\"\"\"\"\"\") ",
            "query q($a: S = \"\") ",
            "query q($a: S = \"\\\\\") ",
            "query q($a: S = \"\\\"\") ",
            "query q($a: S = [\"\"\" \"",
            "query q($a: S = [\"\"\" \\\"\"\" \"",
            // The parser refuses these at the end of the line, and looks no further.
            "\"\n",
            "\"\\\n",
            "é\"é\r",
        ] {
            let error = parse(&format!("{before}{deep}")).unwrap_err();
            assert!(error.message.contains("Nested too deeply"), "{before:?}: {:.100}", error.message);
        }
        let brackets = "[".repeat(500);
        for harmless in [
            format!("{{ a(b: \"\"\" \" {brackets} \\\"\"\" {brackets} \"\"\") }}"),
            format!("{{ a(b: \"\\\" {brackets}\") }}"),
            format!("# \" {brackets}\r{{ a(b: \"\") }}"),
        ] {
            assert!(parse(&harmless).is_ok(), "{:?}", parse(&harmless));
        }
    }

    #[test]
    fn fragments_do_not_multiply() {
        let mut query = String::from("{ ...f0 }");
        for i in 0..40 {
            query.push_str(&format!(" fragment f{i} on Queries {{ ...f{} ...f{} }}", i + 1, i + 1));
        }
        query.push_str(" fragment f40 on Queries { a }");
        assert_eq!(parse(&query).unwrap_err().message, "Query is too complex.");
        let error = parse("{ ...f } fragment f on Queries { ...f ...f }").unwrap_err();
        assert!(error.message.contains("within itself"));
        let wide = format!("{{ {} }}", (0..4_001).map(|i| format!("a{i}: a ")).collect::<String>());
        assert!(parse(&wide).is_err());
    }
}
