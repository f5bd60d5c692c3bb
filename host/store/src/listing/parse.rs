//! From a client's text to typed conditions.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::{Compare, Condition, Field, Kind, Literal, SortKey};

/// Parentheses and negations within one another.
const MAX_DEPTH: usize = 64;
/// Comparisons in one filter; databases limit how deep an expression may nest.
const MAX_TERMS: usize = 400;
/// Values in one array; databases limit how many parameters a statement may have.
const MAX_VALUES: usize = 4_000;
/// Characters of a whole filter or order, and of one pattern.
const MAX_TEXT: usize = 256 * 1024;
const MAX_PATTERN: usize = 4 * 1024;
/// Keys of one order.
const MAX_KEYS: usize = 64;

type Result<T> = std::result::Result<T, String>;

/// Parses a filter.
pub(super) fn filter(text: &str, fields: &[Field]) -> Result<Condition> {
    if text.len() > MAX_TEXT {
        return Err(format!("the text is longer than {MAX_TEXT} bytes"));
    }
    let mut parser = Parser { text, at: 0, fields, depth: 0, terms: 0 };
    let condition = parser.expression()?;
    parser.skip_space();
    match parser.rest().chars().next() {
        None => Ok(condition),
        Some(_) => Err(parser.unexpected()),
    }
}

/// Parses an order.
pub(super) fn order(text: &str, fields: &[Field]) -> Result<Vec<SortKey>> {
    if text.len() > MAX_TEXT {
        return Err(format!("the text is longer than {MAX_TEXT} bytes"));
    }
    let mut parser = Parser { text, at: 0, fields, depth: 0, terms: 0 };
    let mut keys = Vec::new();
    parser.skip_space();
    if parser.rest().is_empty() {
        return Ok(keys);
    }
    loop {
        parser.skip_space();
        let descending = match parser.peek() {
            Some('-') => true,
            Some('+') => false,
            _ => {
                keys.push(parser.sort_key(false)?);
                if parser.comma_or_end()? {
                    break;
                }
                continue;
            }
        };
        parser.at += 1;
        keys.push(parser.sort_key(descending)?);
        if parser.comma_or_end()? {
            break;
        }
        if keys.len() >= MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} fields to order by"));
        }
    }
    if keys.len() > MAX_KEYS {
        return Err(format!("more than {MAX_KEYS} fields to order by"));
    }
    Ok(keys)
}

/// A value as written, before its column's type is known.
#[derive(Debug)]
enum Written {
    Text(String),
    Int(i64),
    Real(f64),
    Bool(bool),
    Null,
    Array(Vec<Written>),
}

#[derive(Clone, Copy)]
enum Operator {
    Compare(Compare),
    Contains,
    In,
    Is,
    IsNot,
    Like,
    ILike,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    fields: &'a [Field],
    depth: usize,
    terms: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn eat(&mut self, token: char) -> bool {
        self.skip_space();
        if self.peek() == Some(token) {
            self.at += token.len_utf8();
            return true;
        }
        false
    }

    fn unexpected(&self) -> String {
        let column = self.text.get(..self.at).map_or(0, |before| before.chars().count()) + 1;
        match self.peek() {
            Some(c) => format!("unexpected {c:?} at column {column}"),
            None => format!("unexpected end of the text at column {column}"),
        }
    }

    /// `[A-Za-z_][A-Za-z0-9_]*`
    fn word(&mut self) -> Option<String> {
        self.skip_space();
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let word = rest.get(..len).filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))?.to_owned();
        self.at += len;
        Some(word)
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        Ok(())
    }

    /// Operands joined by `&` and `|`, which weigh the same and bind to the right; `!` takes all that follows.
    fn expression(&mut self) -> Result<Condition> {
        let mut operands: Vec<(Condition, bool)> = Vec::new();
        let last = loop {
            if self.eat('!') {
                self.deeper()?;
                let inner = self.expression()?;
                self.depth -= 1;
                break Condition::Not(Box::new(inner));
            }
            let operand = if self.eat('(') {
                self.deeper()?;
                let inner = self.expression()?;
                self.depth -= 1;
                if !self.eat(')') {
                    return Err(self.unexpected());
                }
                inner
            } else {
                self.comparison()?
            };
            if self.eat('&') {
                operands.push((operand, true));
            } else if self.eat('|') {
                operands.push((operand, false));
            } else {
                break operand;
            }
        };
        Ok(operands.into_iter().rev().fold(last, |right, (left, and)| {
            let (left, right) = (Box::new(left), Box::new(right));
            if and { Condition::And(left, right) } else { Condition::Or(left, right) }
        }))
    }

    fn comparison(&mut self) -> Result<Condition> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(format!("more than {MAX_TERMS} comparisons"));
        }
        let Some(name) = self.word() else { return Err(self.unexpected()) };
        let operator = self.operator()?;
        let value = self.value(true)?;
        let Some(field) = self.fields.iter().position(|f| f.filter && f.name == name) else {
            return Err(unknown_field(&name));
        };
        typed(field, &self.fields[field], operator, value)
    }

    fn operator(&mut self) -> Result<Operator> {
        self.skip_space();
        const SYMBOLS: &[(&str, Compare)] = &[
            ("==", Compare::Eq),
            ("!=", Compare::Ne),
            (">=", Compare::Ge),
            ("<=", Compare::Le),
            (">", Compare::Gt),
            ("<", Compare::Lt),
        ];
        for (symbol, compare) in SYMBOLS {
            if self.rest().starts_with(symbol) {
                self.at += symbol.len();
                return Ok(Operator::Compare(*compare));
            }
        }
        let start = self.at;
        let operator = match self.word().as_deref() {
            Some("contains") => Operator::Contains,
            Some("in") => Operator::In,
            Some("is") => Operator::Is,
            Some("isnot") => Operator::IsNot,
            Some("like") => Operator::Like,
            Some("ilike") => Operator::ILike,
            _ => {
                self.at = start;
                return Err(self.unexpected());
            }
        };
        Ok(operator)
    }

    fn value(&mut self, arrays: bool) -> Result<Written> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.string().map(Written::Text),
            Some('[') if arrays => {
                self.at += 1;
                let mut values = Vec::new();
                if self.eat(']') {
                    return Ok(Written::Array(values));
                }
                loop {
                    values.push(self.value(false)?);
                    if values.len() > MAX_VALUES {
                        return Err(format!("more than {MAX_VALUES} values in an array"));
                    }
                    if self.eat(']') {
                        return Ok(Written::Array(values));
                    }
                    if !self.eat(',') {
                        return Err(self.unexpected());
                    }
                }
            }
            Some(c) if c == '+' || c == '-' || c.is_ascii_digit() => self.number(),
            _ => {
                let start = self.at;
                match self.word().as_deref() {
                    Some("null") => Ok(Written::Null),
                    Some("true") => Ok(Written::Bool(true)),
                    Some("false") => Ok(Written::Bool(false)),
                    _ => {
                        self.at = start;
                        Err(self.unexpected())
                    }
                }
            }
        }
    }

    /// Double-quoted; a backslash keeps the next character from ending it, and disappears before a quote only.
    fn string(&mut self) -> Result<String> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(out);
                }
                '\0' => return Err("a text must not contain NUL".to_owned()),
                '\\' => match chars.next() {
                    Some((_, '"')) => out.push('"'),
                    Some((_, '\0')) | None => break,
                    Some((_, other)) => out.extend(['\\', other]),
                },
                _ => out.push(c),
            }
        }
        Err("a text is not closed by a double quote".to_owned())
    }

    fn number(&mut self) -> Result<Written> {
        let rest = self.rest();
        let unsigned = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let sign = rest.len() - unsigned.len();
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let whole = digits(unsigned);
        if whole == 0 {
            return Err(self.unexpected());
        }
        let fraction = unsigned.get(whole..).and_then(|t| t.strip_prefix('.')).map_or(0, digits);
        let len = sign + whole + if fraction > 0 { fraction + 1 } else { 0 };
        let text = rest.get(..len).unwrap_or_default().to_owned();
        self.at += len;
        if fraction > 0 {
            return text.parse().map(Written::Real).map_err(|_| format!("{text} is not a number"));
        }
        text.parse().map(Written::Int).map_err(|_| format!("{text} is out of range"))
    }

    fn sort_key(&mut self, descending: bool) -> Result<SortKey> {
        let Some(name) = self.word() else { return Err(self.unexpected()) };
        match self.fields.iter().position(|f| f.order && f.name == name) {
            Some(field) => Ok(SortKey { field, descending }),
            None => Err(unknown_field(&name)),
        }
    }

    /// Whether the text ends here; otherwise a comma must follow.
    fn comma_or_end(&mut self) -> Result<bool> {
        if self.eat(',') {
            return Ok(false);
        }
        if self.rest().is_empty() { Ok(true) } else { Err(self.unexpected()) }
    }
}

fn unknown_field(name: &str) -> String {
    format!("('Unknown/unsupported field name', '{name}')")
}

/// Checks operator and value against the column.
fn typed(index: usize, field: &Field, operator: Operator, value: Written) -> Result<Condition> {
    let name = field.name;
    match (operator, value) {
        (Operator::Compare(Compare::Eq) | Operator::Is, Written::Null) => {
            Ok(Condition::IsNull { field: index, negated: false })
        }
        (Operator::Compare(Compare::Ne) | Operator::IsNot, Written::Null) => {
            Ok(Condition::IsNull { field: index, negated: true })
        }
        (Operator::Is | Operator::IsNot, Written::Bool(value)) => {
            let how = if matches!(operator, Operator::Is) { Compare::Eq } else { Compare::Ne };
            Ok(Condition::Compare { field: index, how, value: literal(field, Written::Bool(value))? })
        }
        (Operator::Is | Operator::IsNot, _) => Err(format!("`{name}`: `is` and `isnot` take null, true or false")),
        (Operator::Compare(how), value) => Ok(Condition::Compare { field: index, how, value: literal(field, value)? }),
        (Operator::In, Written::Array(values)) => {
            let values = values.into_iter().map(|v| literal(field, v)).collect::<Result<_>>()?;
            Ok(Condition::In { field: index, values })
        }
        (Operator::In, _) => Err(format!("`{name}`: `in` takes an array")),
        (Operator::Contains | Operator::Like | Operator::ILike, Written::Text(text)) => {
            if !matches!(field.kind, Kind::Text | Kind::Uuid) {
                return Err(format!("`{name}` is not a text"));
            }
            if text.len() > MAX_PATTERN {
                return Err(format!("`{name}`: a pattern is longer than {MAX_PATTERN} bytes"));
            }
            let pattern = if matches!(operator, Operator::Contains) { format!("%{text}%") } else { text };
            Ok(Condition::Like { field: index, pattern, fold_case: matches!(operator, Operator::ILike) })
        }
        (Operator::Contains | Operator::Like | Operator::ILike, _) => Err(format!("`{name}`: a pattern is a text")),
    }
}

fn literal(field: &Field, value: Written) -> Result<Literal> {
    let name = field.name;
    match (field.kind, value) {
        (Kind::Text, Written::Text(text)) => Ok(Literal::Text(text)),
        (Kind::Int, Written::Int(number)) => Ok(Literal::Int(number)),
        (Kind::Int, Written::Real(number)) => Ok(Literal::Real(number)),
        (Kind::Bool, Written::Bool(value)) => Ok(Literal::Bool(value)),
        (Kind::Uuid, Written::Text(text)) => match text.parse::<uuid::Uuid>() {
            Ok(id) => Ok(Literal::Text(id.hyphenated().to_string())),
            Err(_) => Err(format!("`{name}`: badly formed hexadecimal UUID string")),
        },
        (Kind::Date, Written::Text(text)) => match date(&text) {
            Some(at) => Ok(Literal::Int(at)),
            None => Err(format!("`{name}`: {text:?} is not a date")),
        },
        (Kind::Enum(words), Written::Text(text)) => match words.iter().position(|(word, _)| *word == text) {
            Some(position) => Ok(Literal::Word(position)),
            None => Err(format!("`{name}`: {text:?} is not one of its names")),
        },
        (kind, _) => {
            let expected = match kind {
                Kind::Text | Kind::Uuid => "a text",
                Kind::Int => "a number",
                Kind::Bool => "true or false",
                Kind::Date => "a text with a date",
                Kind::Enum(_) => "a text with one of its names",
            };
            Err(format!("`{name}` compares with {expected}"))
        }
    }
}

/// Microseconds since the Unix epoch of a date in one of the usual forms; UTC when it names no zone.
pub(super) fn date(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc2822(text)) {
        return Some(at.timestamp_micros());
    }
    const ZONED: &[&str] =
        &["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z", "%Y-%m-%dT%H:%M%#z"];
    const LOCAL: &[&str] = &[
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
        "%Y/%m/%d %H:%M:%S%.f",
        "%Y/%m/%d %H:%M",
        "%Y%m%dT%H%M%S",
    ];
    const DAYS: &[&str] = &["%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d %b %Y", "%b %d %Y", "%b %d, %Y", "%B %d, %Y"];
    if let Some(at) = ZONED.iter().find_map(|form| DateTime::parse_from_str(text, form).ok()) {
        return Some(at.timestamp_micros());
    }
    // `2026-11-24 00:18:53 UTC`
    let local = text.strip_suffix("UTC").or_else(|| text.strip_suffix('Z')).map_or(text, str::trim_end);
    if let Some(at) = LOCAL.iter().find_map(|form| NaiveDateTime::parse_from_str(local, form).ok()) {
        return Some(at.and_utc().timestamp_micros());
    }
    if let Some(day) = DAYS.iter().find_map(|form| NaiveDate::parse_from_str(text, form).ok()) {
        return Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros());
    }
    // `2026-11`, `2026`
    let (year, month) = text.split_once('-').unwrap_or((text, "1"));
    if year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()) && month.len() <= 2 {
        let day = NaiveDate::from_ymd_opt(year.parse().ok()?, month.parse().ok()?, 1)?;
        return Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros());
    }
    None
}
