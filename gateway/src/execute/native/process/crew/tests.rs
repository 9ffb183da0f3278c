use crate::{
    execute::native::tests::call,
    limits::{MemoryLimits, NativeLimits, WorkerLimits},
    memory_watch::MemoryWatch,
};

use super::{super::IsolatedExecutor, *};

const LONG: Duration = Duration::from_secs(3600);

fn fleet(limits: NativeLimits) -> Arc<Isolated> {
    Isolated::new(
        limits,
        Some("/no such program".into()),
        1024,
        &WorkerLimits { time: Duration::from_millis(50), ..WorkerLimits::default() },
        Arc::new(MemoryWatch::new(&MemoryLimits::default())),
    )
}

fn owner(name: &str) -> Owner {
    Some(name.parse().expect("a name"))
}

/// A crew whose only member starts a worker for ever.
fn crew(fleet: &Arc<Isolated>, owner: Owner) -> Arc<Crew> {
    let source = Source { owner, ..Source::default() };
    let order = Load {
        label: "m/1".into(),
        artifact: 0,
        files: vec![],
        declared_inputs: vec![],
        limits: source.limits,
        untrusted: true,
        native: fleet.limits.clone(),
        cpu: LONG,
    };
    let crew = Crew::new(fleet, order, source, None);
    crew.lock().members = 1;
    crew
}

type Answered = oneshot::Receiver<Result<InferResponse, ExecuteError>>;

fn job(tenant: &str) -> (Job, Answered) {
    let (answer, answered) = oneshot::channel();
    let job = Job {
        request: InferRequest::default(),
        tenant: tenant.parse().expect("a name"),
        deadline: Deadline::after(LONG),
        consumed: Arc::default(),
        log: Arc::default(),
        answer,
    };
    (job, answered)
}

fn waiting(crew: &Crew) -> usize {
    crew.lock().waiting.len()
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_inputs_along() {
    let crew = crew(&fleet(NativeLimits { threads: 1, ..NativeLimits::default() }), owner("a"));
    let executor = IsolatedExecutor { crew: Arc::clone(&crew), artifact_bytes: 0 };
    use crate::execute::Executor as _;
    let mut first = executor.infer(InferRequest::default(), call(LONG));
    let mut second = executor.infer(InferRequest::default(), call(LONG));
    assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
    assert_eq!(waiting(&crew), 2);
    drop(first);
    assert_eq!(waiting(&crew), 1);
    drop(second);
    assert_eq!(waiting(&crew), 0);
}

#[test]
fn who_left_is_in_nobody_s_way() {
    let crew = crew(&fleet(NativeLimits { threads: 1, max_queued: 1, ..NativeLimits::default() }), None);
    for _ in 0..10 {
        crew.submit(job("a").0).expect("whoever came before has left");
        assert_eq!(waiting(&crew), 1);
    }
    let (stays, _answered) = job("a");
    crew.submit(stays).expect("likewise");
    assert!(matches!(crew.submit(job("a").0), Err(ExecuteError::Busy)), "the queue is full");
}

#[test]
fn what_the_machine_cannot_do_is_no_death() {
    let crew = crew(&fleet(NativeLimits { threads: 1, ..NativeLimits::default() }), owner("a"));
    let error = crew.start().expect_err("there is no such program");
    assert!(error.transient, "{error}");
    for (error, deaths) in [(error, 0), (LoadError::new(Step::Load, "no"), 1)] {
        let (job, mut answered) = job("b");
        crew.submit(job).expect("room");
        crew.give_up(&error);
        match answered.try_recv().expect("an answer") {
            Err(ExecuteError::Busy) => assert!(error.transient),
            Err(ExecuteError::Trapped { .. }) => assert!(!error.transient),
            other => panic!("{other:?}"),
        }
        assert_eq!(crew.lock().deaths.values().map(|deaths| deaths.in_a_row).sum::<u32>(), deaths);
    }
}

#[test]
fn a_pause_is_as_long_as_loading_takes_and_is_one_tenant_s() {
    let crew = crew(&fleet(NativeLimits { threads: 1, ..NativeLimits::default() }), None);
    let (job_before, mut answered) = job("bad");
    crew.submit(job_before).expect("room");
    {
        let mut state = crew.lock();
        state.load_took = LONG;
        let bad = "bad".parse().expect("a name");
        for _ in 0..=FREE_DEATHS {
            assert!(!state.is_paused(&bad));
            state.died(&bad);
        }
        let until = state.deaths[&bad].paused_until.expect("a pause");
        assert!(until > Instant::now() + LONG / 2);
    }
    assert!(matches!(crew.submit(job("bad").0), Err(ExecuteError::Busy)));
    assert!(matches!(answered.try_recv(), Ok(Err(ExecuteError::Busy))), "it waits for no worker");
    let (good, _answered) = job("good");
    crew.submit(good).expect("another tenant's");
}

#[test]
fn loading_waits_for_a_place_as_long_as_it_may_take() {
    let fleet = fleet(NativeLimits { max_workers: 1, ..NativeLimits::default() });
    let _held = fleet.places.take(&owner("a"), || true, || ()).expect("free");
    let error = fleet.load(Source::default(), None).expect_err("no place");
    assert!(error.transient && error.reason.contains("--native-workers"), "{error}");
}

#[test]
fn nobody_s_last_worker_goes_for_a_second_one_and_no_two_for_one() {
    let fleet = fleet(NativeLimits { max_workers: 16, ..NativeLimits::default() });
    let idle = |name: &str| {
        let crew = crew(&fleet, owner(name));
        let mut state = crew.lock();
        (state.serving, state.last_used) = (1, Some(Instant::now()));
        state.idle.push(thread::current());
        drop(state);
        crew
    };
    let take = |owner: &Owner| fleet.places.take(owner, || true, || ()).expect("free");
    let (a, b) = (idle("a"), idle("b"));
    let mut held = vec![take(&owner("a")), take(&owner("b"))];
    held.extend((0..14).map(|_| take(&None)));
    let ask = |crew: &Crew| {
        let mut looks = 0;
        let wanted = || {
            looks += 1;
            looks < 4
        };
        assert!(fleet.place(crew, wanted).is_none());
    };
    let leaving = || [&a, &b].map(|crew| crew.members().leaving);
    // A second one for `b` while its own one is idle: that goes, and `a`'s does not.
    ask(&crew(&fleet, owner("b")));
    assert_eq!(leaving(), [0, 1]);
    b.lock().leaving = 0;
    ask(&crew(&fleet, owner("b")));
    assert_eq!(leaving(), [0, 0], "no more are idle");
    // A first one for `c`, which asks more than once.
    b.lock().idle.push(thread::current());
    ask(&crew(&fleet, owner("c")));
    assert_eq!(leaving().iter().sum::<usize>(), 1);
}
