use super::*;
use crate::deadline::Deadline;

const LIMITS: QuarantineLimits = QuarantineLimits {
    faults: 20,
    window: Duration::from_secs(10),
    time: Duration::from_secs(30),
    longest: Duration::from_secs(600),
};

fn name() -> ModelName {
    "m".parse().expect("a name")
}

/// A quarantine with a clock of its own, in milliseconds.
struct Fixture {
    quarantine: Arc<Quarantine>,
    begun: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self { quarantine: Quarantine::new(&LIMITS), begun: Instant::now() }
    }

    fn at(&self, millis: u64) -> Instant {
        self.begun + Duration::from_millis(millis)
    }

    fn note(&self, tenant: &str, content: &str, millis: u64, outcome: Outcome) {
        let tenant = tenant.parse().expect("a name");
        self.quarantine.note_at(&tenant, &name(), &Digest::of(content.as_bytes()), outcome, self.at(millis));
    }

    /// That many faults, a millisecond apart.
    fn faults(&self, count: u64, from_millis: u64) {
        (0..count).for_each(|fault| self.note("acme", "m", from_millis + fault, Outcome::Fault));
    }

    /// Seconds that the model is refused for.
    fn refused(&self, tenant: &str, content: &str, millis: u64) -> Option<u32> {
        let tenant = tenant.parse().expect("a name");
        let checked =
            self.quarantine.check_at(&tenant, &name(), &Digest::of(content.as_bytes()), self.at(millis));
        checked.err().map(|refused| refused.seconds)
    }
}

#[test]
fn twenty_faults_within_ten_seconds_are_refused_for_thirty_and_no_one_else_is() {
    let fixture = Fixture::new();
    fixture.faults(19, 0);
    assert_eq!(fixture.refused("acme", "m", 20), None);
    fixture.faults(1, 1000);
    assert_eq!(fixture.refused("acme", "m", 1000), Some(30));
    assert_eq!(fixture.refused("acme", "m", 30_999), Some(1));
    assert_eq!(fixture.refused("acme", "m", 31_000), None, "it lifts by itself");
    assert_eq!(fixture.refused("acme", "other version", 1000), None);
    assert_eq!(fixture.refused("globex", "m", 1000), None);
}

#[test]
fn faults_that_are_far_apart_or_have_good_answers_between_them_do_not_count_together() {
    let fixture = Fixture::new();
    fixture.faults(19, 0);
    fixture.faults(19, 10_001);
    assert_eq!(fixture.refused("acme", "m", 10_030), None);
    fixture.note("acme", "m", 10_040, Outcome::Good);
    fixture.faults(19, 10_050);
    assert_eq!(fixture.refused("acme", "m", 10_070), None);
    fixture.note("acme", "m", 10_080, Outcome::Unclear);
    fixture.faults(1, 10_090);
    assert!(fixture.refused("acme", "m", 10_100).is_some(), "what is unclear neither counts nor excuses");
}

#[test]
fn each_quarantine_is_twice_as_long_as_the_last_up_to_the_longest_until_a_good_answer() {
    let fixture = Fixture::new();
    let mut now = 0;
    for seconds in [30, 60, 120, 240, 480, 600, 600] {
        fixture.faults(20, now);
        assert_eq!(fixture.refused("acme", "m", now + 19), Some(seconds));
        // Those that were running already change nothing.
        fixture.faults(100, now + 20);
        now += 19 + u64::from(seconds) * 1000;
        assert_eq!(fixture.refused("acme", "m", now), None);
    }
    fixture.note("acme", "m", now, Outcome::Good);
    fixture.faults(20, now);
    assert_eq!(fixture.refused("acme", "m", now + 19), Some(30));
    // So does a long time without a fault.
    now += 19 + 30_000 + 600_000;
    fixture.faults(20, now);
    assert_eq!(fixture.refused("acme", "m", now + 19), Some(30));
}

#[test]
fn what_is_over_is_forgotten() {
    let fixture = Fixture::new();
    let held = || fixture.quarantine.count.load(Ordering::Relaxed);
    (0..1000).for_each(|number| fixture.note("acme", &number.to_string(), 0, Outcome::Fault));
    assert_eq!(held(), 1000);
    fixture.note("acme", "m", 10_001, Outcome::Fault);
    assert_eq!(held(), 1);
    fixture.note("acme", "m", 10_002, Outcome::Good);
    assert_eq!(held(), 0);
}

#[test]
fn none_at_all_is_a_choice() {
    let quarantine = Quarantine::new(&QuarantineLimits { faults: 0, ..LIMITS });
    let (tenant, content) = (TenantName::default_tenant(), Digest::of(b"m"));
    (0..100).for_each(|_| quarantine.note_at(&tenant, &name(), &content, Outcome::Fault, Instant::now()));
    assert_eq!(quarantine.check(&tenant, &name(), &content), Ok(()));
}

#[test]
fn a_deadline_is_the_model_s_fault_only_if_it_had_its_time_and_used_it() {
    let second = Duration::from_secs(1);
    let late = |given: Duration, used: Duration, waits| {
        let begun = Instant::now();
        let run = Run { begun, cpu_nanos: 5, deadline: Deadline::at(begun + given).into(), allowed: second };
        let used = u64::try_from(used.as_nanos()).expect("a short time");
        run.outcome(&Err::<(), _>(ExecuteError::Deadline), 5 + used, waits)
    };
    assert_eq!(late(second, second / 2, false), Outcome::Fault);
    assert_eq!(late(second, second / 5, false), Outcome::Unclear, "others had the processor");
    assert_eq!(
        late(second / 2, second / 2, false),
        Outcome::Unclear,
        "the client wanted it sooner, or it waited long"
    );
    assert_eq!(late(second, second / 2, true), Outcome::Unclear, "the model that it called is late");
}

#[test]
fn only_what_a_model_does_counts() {
    let second = Duration::from_secs(1);
    let run = Run {
        begun: Instant::now(),
        cpu_nanos: 0,
        deadline: Deadline::after(second).into(),
        allowed: second,
    };
    let outcome = |error| run.outcome(&Err::<(), _>(error), 0, false);
    let text = String::new;
    for fault in [
        ExecuteError::Trapped { reason: text(), detail: text() },
        ExecuteError::Memory { limit_bytes: 1 },
        ExecuteError::Output(text()),
    ] {
        assert_eq!(outcome(fault), Outcome::Fault);
    }
    for other in [ExecuteError::InvalidInput(text()), ExecuteError::Failed(text()), ExecuteError::Busy] {
        assert_eq!(outcome(other), Outcome::Unclear);
    }
}
