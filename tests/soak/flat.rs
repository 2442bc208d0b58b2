//! What was seen over time, and whether it grew.

use crate::churn::Times;
use std::fmt;
use std::time::Duration;

const MIB: f64 = 1024.0 * 1024.0;

/// One look: what the server holds, and the latencies since the look before.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) at: Duration,
    pub(crate) memory: u64,
    pub(crate) disk: u64,
    pub(crate) files: u64,
    pub(crate) span: Times,
}

impl Row {
    pub(crate) const HEADING: &'static str =
        "  seconds   RSS MiB  disk MiB  files  ops/s  GET p50 ms   p99   PUT p50 ms   p99";
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = &self.span;
        let seconds = self.at.as_secs_f64();
        let rate = span.operations() as f64 / span.seconds;
        write!(
            f,
            "{seconds:9.1} {:9.1} {:9.1} {:6} {rate:6.0} {:11.3} {:5.1} {:12.3} {:5.1}",
            self.memory as f64 / MIB,
            self.disk as f64 / MIB,
            self.files,
            span.reads.at(50),
            span.reads.at(99),
            span.writes.at(50),
            span.writes.at(99),
        )
    }
}

/// The looks of a run.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Row>);

impl Series {
    pub(crate) fn push(&mut self, row: Row) {
        self.0.push(row);
    }

    /// Compares the last quarter with the second one, in which caches and the log have filled: by
    /// medians, because one look may meet a fold or a busy machine.
    pub(crate) fn flat(&self) -> Result<(), String> {
        // What may be added however small it was: a log slot or two, some buffers, some sockets.
        self.steady("memory", 1.3, 48.0 * MIB, |row| row.memory as f64)?;
        self.steady("disk", 1.5, 160.0 * MIB, |row| row.disk as f64)?;
        self.steady("open files", 1.3, 16.0, |row| row.files as f64)?;
        self.steady("the latency of GET", 4.0, 20.0, |row| row.span.reads.at(50))?;
        self.steady("the latency of PUT", 4.0, 50.0, |row| row.span.writes.at(50))
    }

    fn steady(
        &self,
        what: &str,
        factor: f64,
        slack: f64,
        of: impl Fn(&Row) -> f64,
    ) -> Result<(), String> {
        let quarter = self.0.len() / 4;
        let median = |rows: &[Row]| {
            let mut values: Vec<f64> = rows.iter().map(&of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let early = median(&self.0[quarter..2 * quarter]);
        let late = median(&self.0[3 * quarter..]);
        if late > early * factor + slack {
            return Err(format!("{what} grew from {early} to {late}"));
        }
        Ok(())
    }
}

fn planted(memory: impl Fn(u64) -> u64, files: impl Fn(u64) -> u64) -> Series {
    let mut series = Series::default();
    for look in 0..20 {
        series.push(Row {
            at: Duration::from_secs(look),
            memory: memory(look),
            disk: 1 << 28,
            files: files(look),
            span: Times::default(),
        });
    }
    series
}

#[test]
fn what_grows_is_found() {
    let steady = |_| 100 << 20;
    assert_eq!(planted(steady, |_| 40).flat(), Ok(()));
    assert_eq!(planted(|look| (50 + look.min(5) * 20) << 20, |_| 40).flat(), Ok(()), "warming up");
    let grew = planted(|look| (100 + look * 12) << 20, |_| 40).flat().unwrap_err();
    assert!(grew.starts_with("memory"), "{grew}");
    let grew = planted(steady, |look| 40 + 6 * look).flat().unwrap_err();
    assert!(grew.starts_with("open files"), "{grew}");
}
