//! Formats the result table as Markdown and SVG.

use crate::generator::Measurement;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// The result of one workload on one target.
#[derive(Clone, Debug)]
pub struct Row {
    label: String,
    value: f64,
    /// Median and 99th percentile latency, in milliseconds.
    latencies: Option<(f64, f64)>,
    failures: u64,
}

impl Row {
    /// Creates a row with a single value.
    pub fn once(label: &str, value: f64) -> Row {
        Row { label: label.into(), value, latencies: None, failures: 0 }
    }

    /// Creates a row from the run with the median rate.
    pub fn median(label: &str, runs: &[Measurement]) -> Row {
        let mut sorted = runs.to_vec();
        sorted.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let middle = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let latencies = (middle.p50 > 0.0).then_some((middle.p50 / 1e3, middle.p99 / 1e3));
        let failures = runs.iter().map(|run| run.failures).sum();
        Row { label: label.into(), value: middle.rate, latencies, failures }
    }
}

impl Row {
    /// Returns the name of the workload.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Formats the value, with median and 99th percentile latency if present.
    pub fn cell(&self) -> String {
        cell(self)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:45} {}", self.label, cell(self))?;
        if self.failures > 0 { write!(f, " ({} failed)", self.failures) } else { Ok(()) }
    }
}

fn cell(row: &Row) -> String {
    let value = match row.value {
        0.0 => "0".into(),
        value if value >= 1000.0 => format!("{:.1}k", value / 1000.0),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    match row.latencies {
        Some((p50, p99)) => format!("{value} ({p50:.2}; {p99:.2})"),
        None => value,
    }
}

/// The rows of all targets.
#[derive(Default)]
pub struct Table {
    order: Vec<String>,
    targets: Vec<String>,
    rows: BTreeMap<(String, String), Row>,
}

impl Table {
    /// Adds a row to the column of a target.
    pub fn add(&mut self, target: &str, row: Row) {
        if !self.order.contains(&row.label) {
            self.order.push(row.label.clone());
        }
        if !self.targets.iter().any(|known| known == target) {
            self.targets.push(target.to_owned());
        }
        self.rows.insert((row.label.clone(), target.to_owned()), row);
    }

    fn ratio(&self, label: &str, target: &str) -> Option<f64> {
        let baseline = self.rows.get(&(label.to_owned(), "baseline".to_owned()))?;
        let row = self.rows.get(&(label.to_owned(), target.to_owned()))?;
        (row.value > 0.0 && baseline.value > 0.0).then(|| row.value / baseline.value)
    }

    /// Formats the table as Markdown. A cell has the rate, the median and 99th percentile latency
    /// in ms, and the ratio to `baseline`. `heading` is the name of the first column.
    pub fn markdown(&self, heading: &str) -> String {
        let mut text = format!("| {heading} | {} |\n|---|", self.targets.join(" | "));
        text.push_str(&"---|".repeat(self.targets.len()));
        text.push('\n');
        for label in &self.order {
            let _ = write!(text, "| {label} |");
            for target in &self.targets {
                match self.rows.get(&(label.clone(), target.clone())) {
                    None => text.push_str(" |"),
                    Some(row) => {
                        let _ = write!(text, " {}", cell(row));
                        let rate = label.ends_with("/s");
                        match self.ratio(label, target).filter(|_| rate && target != "baseline") {
                            Some(ratio) => {
                                let _ = write!(text, " **x {ratio:.2}** |");
                            }
                            None => text.push_str(" |"),
                        }
                    }
                }
            }
            text.push('\n');
        }
        text
    }

    /// Draws the ratios to `baseline` as a bar chart in SVG.
    pub fn svg(&self) -> String {
        let subjects: Vec<_> = self.targets.iter().filter(|t| !t.starts_with("baseline")).collect();
        let colours = ["#2b6cb0", "#a0aec0", "#d69e2e"];
        let (left, width, bar) = (270.0, 400.0, 14.0);
        let (mut body, mut y) = (String::new(), 40.0);
        for (target, colour) in subjects.iter().zip(colours) {
            let x = left + 90.0 * subjects.iter().position(|t| t == target).unwrap_or(0) as f64;
            let _ = write!(
                body,
                "<rect x='{x}' y='8' width='12' height='12' fill='{colour}'/>\
                 <text x='{}' y='19'>{target}</text>",
                x + 16.0
            );
        }
        for label in self.order.iter().filter(|label| label.ends_with("/s")) {
            if !subjects.iter().any(|target| self.ratio(label, target).is_some()) {
                continue;
            }
            let _ = write!(body, "<text x='8' y='{}'>{label}</text>", y + 11.0);
            for (target, colour) in subjects.iter().zip(colours) {
                let Some(ratio) = self.ratio(label, target) else { continue };
                let length = ratio.min(1.5) / 1.5 * width;
                let _ = write!(
                    body,
                    "<rect x='{left}' y='{y}' width='{length:.0}' height='{}' fill='{colour}'/>\
                     <text x='{:.0}' y='{}'>{ratio:.2}</text>",
                    bar - 3.0,
                    left + length + 4.0,
                    y + 10.0
                );
                y += bar;
            }
            y += 6.0;
        }
        let one = left + width / 1.5;
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='720' height='{y}' \
             font-family='sans-serif' font-size='11'>\
             <rect width='100%' height='100%' fill='white'/>\
             <line x1='{one}' y1='28' x2='{one}' y2='{y}' stroke='#c53030' stroke-dasharray='4'/>\
             <text x='{}' y='36' fill='#c53030'>bare hyper</text>{body}</svg>\n",
            one + 4.0
        )
    }
}
