//! The figures to reach, as a table with their targets.

use anyhow::Context as _;
use serde::Deserialize;

use crate::run::{cargo, output, say};

/// A figure as the benchmark prints it.
#[derive(Debug, Deserialize)]
struct Figure {
    figure: String,
    value: Option<f64>,
    #[serde(default)]
    unit: String,
    /// What it may be at most.
    target: Option<f64>,
    /// Why it wasn't measured.
    skipped: Option<String>,
}

/// Measures what policies cost and prints it: a table for people, or the lines of JSON as they come.
pub(crate) fn policies(json: bool) -> anyhow::Result<()> {
    let bench = ["bench", "--quiet", "--locked", "--package", "quarterdeck-plugin", "--bench", "figures"];
    let text = output(cargo().args(bench))?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    if json {
        lines.for_each(|line| println!("{line}"));
        return Ok(());
    }
    let figures = lines
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<anyhow::Result<Vec<Figure>>>()?;
    figures.iter().for_each(|figure| say(&figure.line()));
    let missed = figures.iter().filter(|figure| figure.reached() == Some(false)).count();
    say(&format!("{missed} of {} targets missed", figures.iter().filter(|figure| figure.target.is_some()).count()));
    Ok(())
}

impl Figure {
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
