use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{totals::MAX_MODELS, *};

fn tenant(name: &str) -> TenantName {
    name.parse().expect("a name")
}

fn model(name: &str) -> ModelName {
    name.parse().expect("a name")
}

fn known(meter: &Arc<Meter>, name: &str) -> Usage {
    let mut usage = start(meter, &tenant("a"), &model(name));
    usage.model_known();
    usage
}

/// What moved since the last time: model, outcome and calls.
fn moved(meter: &Meter) -> Vec<(Option<String>, String, u64)> {
    let moved = meter.take_moved().into_iter();
    moved
        .map(|(key, figures)| (key.model.map(|m| m.to_string()), key.outcome.into(), figures.calls))
        .collect()
}

fn one(outcome: &str) -> Vec<(Option<String>, String, u64)> {
    vec![(Some("m".into()), outcome.into(), 1)]
}

#[test]
fn each_way_off_the_road_has_its_outcome() {
    let meter = Arc::<Meter>::default();
    drop(known(&meter, "m"));
    assert_eq!(moved(&meter), one("client_gone"));

    known(&meter, "m").failed("model_failed");
    assert_eq!(moved(&meter), one("model_failed"));

    let mut usage = known(&meter, "m");
    usage.succeeded(10);
    usage.sent(6);
    usage.sent(4);
    drop(usage);
    assert_eq!(moved(&meter), one("ok"));

    let mut usage = known(&meter, "m");
    usage.succeeded(10);
    usage.sent(6);
    drop(usage);
    assert_eq!(moved(&meter), one("client_gone"), "the answer was not read to its end");

    let usage = known(&meter, "m");
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _usage = usage;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(moved(&meter), one("internal"));
    assert_eq!(moved(&meter), []);
}

#[test]
fn figures_add_up_and_memory_is_a_maximum() {
    let meter = Arc::<Meter>::default();
    for (received, sent, memory) in [(1, 10, 500), (2, 20, 700), (4, 40, 600)] {
        let mut usage = known(&meter, "m");
        usage.received(received);
        usage.received(received);
        usage.consumed().memory(memory);
        usage.succeeded(sent);
        usage.sent(sent);
    }
    drop(start(&meter, &tenant("b"), &model("m")));
    let usage = meter.usage(&tenant("a"));
    let (total, only) = (&usage.total, &usage.models[0]);
    assert_eq!(usage.models.len(), 1);
    assert_eq!(only.model.as_deref(), Some("m"));
    for sum in [total, &only.sum] {
        assert_eq!((sum.calls, sum.bytes_in, sum.bytes_out, sum.peak_memory), (3, 14, 70, 700));
        assert_eq!(sum.outcomes, [("ok".to_owned(), 3)].into());
        assert!(sum.first.is_some_and(|first| first >= usage.since) && sum.last >= sum.first);
    }
    let json = serde_json::to_value(meter.usage(&tenant("b"))).expect("JSON");
    assert_eq!(json["models"][0]["model"], serde_json::Value::Null);
    assert_eq!(json["models"][0]["outcomes"], serde_json::json!({ "client_gone": 1 }));
    let json = serde_json::to_value(meter.usage(&tenant("nobody"))).expect("JSON");
    assert_eq!((&json["total"]["calls"], &json["total"]["first"]), (&0.into(), &serde_json::Value::Null));
}

#[test]
fn a_million_unknown_names_are_one_entry() {
    let meter = Arc::<Meter>::default();
    for number in 0..1_000_000 {
        start(&meter, &tenant("a"), &model(&format!("m{number}"))).failed("model_not_found");
    }
    let usage = meter.usage(&tenant("a"));
    assert_eq!((usage.models.len(), usage.total.calls), (1, 1_000_000));
    assert_eq!(moved(&meter), [(None, "model_not_found".into(), 1_000_000)]);
}

#[test]
fn models_without_end_are_counted_and_not_kept() {
    let meter = Arc::<Meter>::default();
    let many = MAX_MODELS + 100;
    for number in 0..many {
        known(&meter, &format!("m{number}")).failed("overloaded");
    }
    known(&meter, "m0").failed("overloaded");
    let usage = meter.usage(&tenant("a"));
    assert_eq!(usage.total.calls, many as u64 + 1);
    assert_eq!(usage.models.len(), MAX_MODELS + 1);
    assert_eq!((usage.models[0].model.as_deref(), usage.models[0].sum.calls), (None, 100));
}

#[test]
fn a_run_that_outlives_its_request_is_billed_to_its_end() {
    let meter = Arc::<Meter>::default();
    let usage = known(&meter, "m");
    let run = usage.consumed();
    assert!(!meter.settled());
    drop(usage);
    assert!(!meter.settled());
    assert_eq!(meter.usage(&tenant("a")).total.cpu_ns, 0);
    drop(run.on_this_thread());
    let so_far = run.cpu_nanos();
    assert!(so_far > 0);
    assert_eq!(meter.usage(&tenant("a")).total.cpu_ns, so_far);
    drop(run.on_this_thread());
    run.memory(7);
    let used = run.cpu_nanos();
    drop(run);
    assert!(meter.settled());
    let total = meter.usage(&tenant("a")).total;
    assert_eq!((total.calls, total.cpu_ns, total.peak_memory), (1, used, 7));
    let moved = meter.take_moved();
    let figures: Vec<&Figures> = moved.values().collect();
    assert_eq!((figures.len(), figures[0].cpu_nanos, figures[0].calls), (1, used, 1));
}

#[test]
fn what_could_not_be_written_is_taken_back() {
    let meter = Arc::<Meter>::default();
    known(&meter, "m").failed("overloaded");
    let unwritten = meter.take_moved();
    known(&meter, "m").failed("overloaded");
    meter.put_back(unwritten);
    assert_eq!(moved(&meter), [(Some("m".into()), "overloaded".into(), 2)]);
    assert_eq!(meter.usage(&tenant("a")).total.calls, 2);
}

fn answered(meter: &Arc<Meter>, version: &str, shared: bool, batch: u64) {
    let mut usage = known(meter, "m");
    usage.answered_by(&version.parse().expect("a version"), shared);
    usage.weighs(batch);
    usage.arrived();
    for station in [Station::Decode, Station::Wait, Station::Run, Station::Encode] {
        usage.passed(station);
    }
    usage.succeeded(0);
}

fn served(version: &str, shared: bool) -> Served {
    Served { model: model("m"), version: version.parse().expect("a version"), shared }
}

#[test]
fn statistics_are_by_tenant_version_and_owner() {
    let meter = Arc::<Meter>::default();
    answered(&meter, "1", true, 3);
    answered(&meter, "1", true, 1);
    answered(&meter, "1", false, 1);
    answered(&meter, "2", true, 1);
    for (outcome, failure) in [
        ("rate_limited", Failure::Rejected),
        ("model_failed", Failure::Backend),
        ("deadline_exceeded", Failure::Backend),
        ("bad_request", Failure::Other),
    ] {
        let before = meter.statistics(&tenant("a"), &served("2", true)).failures[failure as usize].count;
        let mut usage = known(&meter, "m");
        usage.answered_by(&"2".parse().expect("a version"), true);
        usage.failed(outcome);
        drop(usage);
        let after = meter.statistics(&tenant("a"), &served("2", true)).failures[failure as usize].count;
        assert_eq!(after, before + 1, "{outcome}");
    }
    let mut gone = known(&meter, "m");
    gone.answered_by(&"2".parse().expect("a version"), true);
    gone.succeeded(10);
    drop(gone);

    let first = meter.statistics(&tenant("a"), &served("1", true));
    assert_eq!((first.success.count, first.inferences, first.failed().count), (2, 4, 0));
    let spent = first.spent;
    assert!(spent.decode + spent.wait + spent.run + spent.encode <= first.success.nanos);
    let sizes: Vec<(u64, u64)> = first.batches.iter().map(|(size, batches)| (*size, batches.count)).collect();
    assert_eq!(sizes, [(1, 1), (3, 1)]);
    assert_eq!(meter.statistics(&tenant("a"), &served("1", false)).success.count, 1);
    let second = meter.statistics(&tenant("a"), &served("2", true));
    assert_eq!((second.success.count, second.failed().count), (1, 5));
    assert_eq!(second.failures[Failure::Canceled as usize].count, 1);
    assert_eq!(second.durations.iter().sum::<u64>(), 6);
    assert_eq!(meter.statistics(&tenant("b"), &served("1", true)), Statistics::default());
    let (_, all) = meter.counted(&tenant("a"));
    let all: u64 = all.iter().map(|(_, some)| some.success.count + some.failed().count).sum();
    assert_eq!(all, meter.usage(&tenant("a")).total.calls);
}

#[test]
fn versions_and_batches_without_end_do_not_fill_the_memory() {
    let meter = Arc::<Meter>::default();
    for batch in 1..1000 {
        answered(&meter, "1", false, batch);
    }
    let first = meter.statistics(&tenant("a"), &served("1", false));
    assert_eq!(first.batches.len(), statistics::MAX_BATCH_SIZES);
    assert_eq!((first.success.count, first.inferences), (999, 999 * 500));
    for version in 0..statistics::MAX_VERSIONS + 100 {
        answered(&meter, &format!("v{version}"), false, 1);
    }
    assert_eq!(meter.counted(&tenant("a")).1.len(), statistics::MAX_VERSIONS);
    // Whoever was there first goes on being counted.
    answered(&meter, "1", false, 1);
    assert_eq!(meter.statistics(&tenant("a"), &served("1", false)).success.count, 1000);
}
