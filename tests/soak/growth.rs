//! Samples of resource usage over time, and the check that no resource keeps growing.

use crate::workload::Latencies;
use std::fmt;
use std::time::Duration;

const MIB: f64 = 1024.0 * 1024.0;

/// Resource usage of the server, and the latencies since the previous sample.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) elapsed: Duration,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) open_files: u64,
    pub(crate) latencies: Latencies,
}

impl Sample {
    pub(crate) const HEADING: &'static str =
        "  seconds   RSS MiB  disk MiB  files  ops/s  GET p50 ms   p99   PUT p50 ms   p99";
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latencies = &self.latencies;
        let seconds = self.elapsed.as_secs_f64();
        let rate = latencies.operations() as f64 / latencies.seconds;
        write!(
            f,
            "{seconds:9.1} {:9.1} {:9.1} {:6} {rate:6.0} {:11.3} {:5.1} {:12.3} {:5.1}",
            self.memory_bytes as f64 / MIB,
            self.disk_bytes as f64 / MIB,
            self.open_files,
            latencies.reads.percentile(50),
            latencies.reads.percentile(99),
            latencies.writes.percentile(50),
            latencies.writes.percentile(99),
        )
    }
}

/// The samples of a run in time order.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Sample>);

impl Series {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Compares the last quarter of the samples with the second quarter, in which the caches and
    /// the WAL are already full. Uses medians, because a sample may coincide with a checkpoint or
    /// a busy machine.
    pub(crate) fn check_flat(&self) -> Result<(), String> {
        // The absolute slack allows for one or two WAL segments, some buffers and some sockets.
        self.check_steady("memory", 1.3, 48.0 * MIB, |sample| sample.memory_bytes as f64)?;
        self.check_steady("disk", 1.5, 160.0 * MIB, |sample| sample.disk_bytes as f64)?;
        self.check_steady("open files", 1.3, 16.0, |sample| sample.open_files as f64)?;
        self.check_steady("the latency of GET", 4.0, 20.0, |sample| {
            sample.latencies.reads.percentile(50)
        })?;
        self.check_steady("the latency of PUT", 4.0, 50.0, |sample| {
            sample.latencies.writes.percentile(50)
        })
    }

    fn check_steady(
        &self,
        what: &str,
        factor: f64,
        slack: f64,
        of: impl Fn(&Sample) -> f64,
    ) -> Result<(), String> {
        let quarter = self.0.len() / 4;
        let median = |rows: &[Sample]| {
            let mut values: Vec<f64> = rows.iter().map(&of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let early = median(&self.0[quarter..2 * quarter]);
        let late = median(&self.0[3 * quarter..]);
        if late > early * factor + slack {
            return Err(format!("{what} grew from a median of {early} to {late}"));
        }
        Ok(())
    }
}

fn series(memory_bytes: impl Fn(u64) -> u64, open_files: impl Fn(u64) -> u64) -> Series {
    let mut all = Series::default();
    for n in 0..20 {
        all.push(Sample {
            elapsed: Duration::from_secs(n),
            memory_bytes: memory_bytes(n),
            disk_bytes: 1 << 28,
            open_files: open_files(n),
            latencies: Latencies::default(),
        });
    }
    all
}

#[test]
fn steady_growth_is_reported() {
    let steady = |_| 100 << 20;
    assert_eq!(series(steady, |_| 40).check_flat(), Ok(()));
    assert_eq!(
        series(|n| (50 + n.min(5) * 20) << 20, |_| 40).check_flat(),
        Ok(()),
        "growth during the warm-up must be accepted"
    );
    let grew = series(|n| (100 + n * 12) << 20, |_| 40).check_flat().unwrap_err();
    assert!(grew.starts_with("memory"), "{grew}");
    let grew = series(steady, |n| 40 + 6 * n).check_flat().unwrap_err();
    assert!(grew.starts_with("open files"), "{grew}");
}
