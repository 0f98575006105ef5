//! A page of metrics, written one family after another.
//!
//! Names carry their unit (`_bytes`, `_seconds`) and get the registry's prefix. Limits: gauges and counters, which is all
//! that the daemons have.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The page that is written.
#[derive(Debug)]
pub struct Page<'a>(DescriptorEncoder<'a>);

impl<'a> Page<'a> {
    /// A page that `encoder` writes.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// 1 while `on` holds, else 0.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn flag(&mut self, name: &str, help: &str, on: bool) -> fmt::Result {
        self.gauge(name, help, f64::from(u8::from(on)))
    }

    /// A sum since the start of what has no whole units; `_total` is added to its name.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn measured(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    /// Which version serves this: always 1, the version is a label.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn build(&mut self, version: &str) -> fmt::Result {
        self.gauges("build_info", "Always 1; which version this is", [([("version", version)], 1.0)])
    }

    /// A level of now.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let metric = ConstGauge::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    /// A sum since the start; `_total` is added to its name.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    /// Levels of now, each under its labels.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'l str, &'l str); N], f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (label, value) in values {
            ConstGauge::new(value).encode(metric.encode_family(&label)?)?;
        }
        Ok(())
    }

    /// Sums since the start, each under its labels; `_total` is added to the name.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (label, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&label)?)?;
        }
        Ok(())
    }
}
