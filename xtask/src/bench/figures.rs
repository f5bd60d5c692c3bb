//! Figures with what they may be at most, as a table for people or as lines of JSON for programs.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::run::{cargo, output, say};

/// A figure as it is printed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Figure {
    figure: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(default)]
    unit: String,
    /// What it may be at most.
    target: Option<f64>,
    /// Why it wasn't measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// What policies cost within one process: the benchmarks of the crate that runs them, and of the one that has the books.
pub(super) fn in_process() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (package, bench) in [("quarterdeck-plugin", "figures"), ("quarterdeck-control", "rounds")] {
        let text = output(cargo().args(["bench", "--quiet", "--locked", "--package", package, "--bench", bench]))?;
        for line in text.lines().filter(|line| line.starts_with('{')) {
            figures.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
        }
    }
    Ok(figures)
}

/// Prints figures: a table, or JSON objects a line each.
pub(super) fn print(figures: &[Figure], json: bool) -> anyhow::Result<()> {
    if json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure)?);
        }
        return Ok(());
    }
    figures.iter().for_each(|figure| say(&figure.line()));
    let missed = figures.iter().filter(|figure| figure.reached() == Some(false)).count();
    say(&format!("{missed} of {} targets missed", figures.iter().filter(|figure| figure.target.is_some()).count()));
    Ok(())
}

impl Figure {
    /// One that was measured.
    pub(super) fn measured(figure: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { figure: figure.into(), value: Some(value), unit: unit.to_owned(), target: None, skipped: None }
    }

    /// It may be that much at most.
    pub(super) fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    /// One that was not measured.
    pub(super) fn skipped(figure: impl Into<String>, why: impl Into<String>) -> Self {
        Self { figure: figure.into(), value: None, unit: String::new(), target: None, skipped: Some(why.into()) }
    }

    /// Whether the target is reached, if there is one.
    fn reached(&self) -> Option<bool> {
        Some(self.value? <= self.target?)
    }

    fn line(&self) -> String {
        let Some(value) = self.value else {
            return format!("{:<76} skipped: {}", self.figure, self.skipped.as_deref().unwrap_or("not measured"));
        };
        let target = self.target.map(|target| format!("at most {target} {}", self.unit)).unwrap_or_default();
        let verdict = match self.reached() {
            Some(true) => "reached",
            Some(false) => "MISSED",
            None => "",
        };
        format!("{:<76} {value:>9.3} {:<3} {target:<16} {verdict}", self.figure, self.unit).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Figure;

    #[test]
    fn figures_are_held_against_their_targets() {
        let figure = |text: &str| serde_json::from_str::<Figure>(text).expect("a figure");
        let reached = figure(r#"{"figure": "a", "value": 1.0, "unit": "ms", "target": 1.0}"#);
        assert_eq!(reached.reached(), Some(true));
        let missed = figure(r#"{"figure": "a", "value": 1.1, "unit": "ms", "target": 1.0}"#);
        assert!(missed.line().ends_with("MISSED"), "{}", missed.line());
        let plain = figure(r#"{"figure": "a", "value": 1.1, "unit": "ms", "target": null}"#);
        assert_eq!(plain.reached(), None);
        let skipped = figure(r#"{"figure": "a", "skipped": "not built"}"#);
        assert!(skipped.line().ends_with("skipped: not built"));
    }
}
