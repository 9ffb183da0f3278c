//! Families: samples in the form that the encoder takes.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::meter::BUCKETS;

/// Numbers that only grow, each with the values of the labels that are named once for all.
pub(super) fn counter<L: AsRef<[String]>>(
    name: &str,
    help: &str,
    labels: &[&str],
    samples: impl IntoIterator<Item = (L, f64)>,
) -> MetricFamily {
    family(name, help, MetricType::COUNTER, labels, samples, |metric, value| {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    })
}

/// Numbers as they are now.
pub(super) fn gauge<L: AsRef<[String]>>(
    name: &str,
    help: &str,
    labels: &[&str],
    samples: impl IntoIterator<Item = (L, f64)>,
) -> MetricFamily {
    family(name, help, MetricType::GAUGE, labels, samples, |metric, value| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    })
}

/// One number as it is now.
pub(super) fn single(name: &str, help: &str, value: f64) -> MetricFamily {
    let labels: [String; 0] = [];
    gauge(name, help, &[], [(labels, value)])
}

/// Calls by how long they took, each bucket counted for itself, and the seconds that all took together.
pub(super) fn histogram<L: AsRef<[String]>>(
    name: &str,
    help: &str,
    labels: &[&str],
    samples: impl IntoIterator<Item = (L, ([u64; BUCKETS.len() + 1], f64))>,
) -> MetricFamily {
    family(name, help, MetricType::HISTOGRAM, labels, samples, |metric, (counts, seconds)| {
        let mut sum = 0;
        let buckets = BUCKETS.iter().zip(counts).map(|(bound, count)| {
            sum += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(sum);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(seconds);
        metric.set_histogram(histogram);
    })
}

fn family<L: AsRef<[String]>, V>(
    name: &str,
    help: &str,
    kind: MetricType,
    labels: &[&str],
    samples: impl IntoIterator<Item = (L, V)>,
    set: impl Fn(&mut Metric, V),
) -> MetricFamily {
    let metrics = samples.into_iter().map(|(values, value)| {
        let pairs = labels.iter().zip(values.as_ref()).map(|(label, text)| {
            let mut pair = LabelPair::default();
            pair.set_name((*label).to_owned());
            pair.set_value(text.clone());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        set(&mut metric, value);
        metric
    });
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.collect());
    family
}
