use std::{collections::BTreeMap, sync::mpsc, task::Waker, time::Duration};

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn share(tenant: &str, weight: u32) -> Arc<Share> {
    Arc::new(Share { tenant: tenant.parse().expect("a name"), weight })
}

/// Takes that many turns one after the other, each of the time that its tenant's runs take and then waiting again. Returns
/// the time that each tenant had.
fn turns(queue: &mut Queue<()>, count: usize, takes: impl Fn(&str, usize) -> u64) -> BTreeMap<String, u64> {
    let mut had = BTreeMap::<String, u64>::new();
    for turn in 0..count {
        let (share, ()) = queue.pop().expect("somebody waits");
        let nanos = takes(share.tenant.as_str(), turn);
        queue.used(&share, nanos);
        *had.entry(share.tenant.to_string()).or_default() += nanos;
        queue.push(share, ());
    }
    had
}

#[test]
fn a_tenant_with_many_runs_gets_no_more_than_one_with_a_single_one() {
    let mut queue = Queue::default();
    let (many, one) = (share("many", 100), share("one", 100));
    for _ in 0..100 {
        queue.push(Arc::clone(&many), ());
    }
    queue.push(one, ());
    let had = turns(&mut queue, 1000, |_, _| 2 * MS);
    assert!(had["many"].abs_diff(had["one"]) <= 4 * MS, "{had:?}");
    assert_eq!(queue.len(), 101);
}

#[test]
fn time_is_shared_out_by_weight_and_not_by_turns() {
    let mut queue = Queue::default();
    queue.push(share("long", 100), ());
    queue.push(share("short", 100), ());
    queue.push(share("heavy", 300), ());
    let had = turns(&mut queue, 10_000, |tenant, _| if tenant == "long" { 10 * MS } else { MS });
    assert!(had["long"].abs_diff(had["short"]) <= 20 * MS, "{had:?}");
    assert!(had["heavy"].abs_diff(3 * had["short"]) <= 60 * MS, "{had:?}");
}

#[test]
fn a_pause_gives_neither_credit_nor_debt() {
    let mut queue = Queue::default();
    queue.push(share("alone", 100), ());
    turns(&mut queue, 10_000, |_, _| 2 * MS);
    queue.push(share("late", 100), ());
    let had = turns(&mut queue, 100, |_, _| 2 * MS);
    assert!(had["alone"].abs_diff(had["late"]) <= 4 * MS, "{had:?}");
}

#[test]
fn several_threads_do_not_all_go_to_the_tenant_that_is_behind() {
    let mut queue = Queue::default();
    for tenant in ["one", "two"] {
        for _ in 0..4 {
            queue.push(share(tenant, 100), ());
        }
    }
    let names: Vec<String> =
        std::iter::from_fn(|| queue.pop()).take(4).map(|(share, ())| share.tenant.to_string()).collect();
    assert_eq!(names, ["one", "two", "one", "two"]);
}

#[test]
fn runs_of_one_tenant_take_turns() {
    let mut queue = Queue::default();
    for run in 0..3 {
        queue.push(share("one", 100), run);
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        let (share, run) = queue.pop().expect("somebody waits");
        order.push(run);
        queue.used(&share, 2 * MS);
        queue.push(share, run);
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn who_had_more_elsewhere_does_not_go_first() {
    let mut queue = Queue::default();
    let (waits, comes) = (share("waits", 100), share("comes", 100));
    queue.push(waits, ());
    assert!(queue.goes_first(&comes));
    queue.used_elsewhere(&comes, 5 * MS);
    assert!(!queue.goes_first(&comes));
    // By then the one that waited has had as much.
    turns(&mut queue, 3, |_, _| 2 * MS);
    assert!(queue.goes_first(&comes));
}

#[test]
fn tenants_that_went_away_are_forgotten() {
    let mut queue = Queue::default();
    for number in 0..10_000 {
        queue.push(share(&format!("t{number}"), 100), ());
        let (share, ()) = queue.pop().expect("it waits");
        queue.used(&share, MS);
    }
    assert!(queue.remembered() < 200, "{}", queue.remembered());
}

proptest! {
    /// Of tenants that always want more, none ever has more than two turns of the longest kind above any other, whatever
    /// their turns take (Goyal et al., theorem 1; the second turn is the one that is charged in advance).
    #[test]
    fn nobody_is_ever_far_ahead(
        weights in prop::collection::vec(1u32..1000, 2..6),
        times in prop::collection::vec(0..20 * MS, 500),
    ) {
        let mut queue = Queue::default();
        let shares: Vec<_> =
            weights.iter().enumerate().map(|(index, weight)| share(&format!("t{index}"), *weight)).collect();
        for share in &shares {
            queue.push(Arc::clone(share), ());
        }
        let mut had = vec![0u64; shares.len()];
        for nanos in times {
            let (taken, ()) = queue.pop().expect("somebody waits");
            queue.used(&taken, nanos);
            let index = shares.iter().position(|share| *share == taken).expect("one of them");
            had[index] += taken.time(nanos);
            queue.push(taken, ());
            let longest = |weight: u32| 20 * MS * 100 / u64::from(weight) + 1000;
            let (least, most) = (had.iter().min().expect("some"), had.iter().max().expect("some"));
            let bound = weights.iter().map(|weight| longest(*weight)).max().expect("some") * 2;
            prop_assert!(most - least <= bound, "{had:?}");
        }
    }
}

/// Gives its thread up so many times, and works for a millisecond before each.
fn yields(times: u32) -> impl Future<Output = thread::ThreadId> + Send + Unpin {
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(thread::current().id());
        }
        left -= 1;
        // Of the processor's time: on a busy machine less of it passes than of any other.
        let start = thread_nanos();
        while thread_nanos() - start < MS {
            std::hint::spin_loop();
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_run_stays_where_it_is_and_a_long_one_moves() {
    let scheduler = Scheduler::new(1).expect("a thread");
    let (share, habit) = (share("one", 100), Habit::default());
    let here = thread::current().id();
    assert_eq!(scheduler.run(&share, &habit, false, Arc::default(), yields(0)).await, Ok(here));
    assert_ne!(scheduler.run(&share, &habit, false, Arc::default(), yields(3)).await, Ok(here));
    // The next run of the same model begins over there; a short one brings the model back.
    assert_ne!(scheduler.run(&share, &habit, false, Arc::default(), yields(0)).await, Ok(here));
    assert_eq!(scheduler.run(&share, &habit, false, Arc::default(), yields(0)).await, Ok(here));
    assert_ne!(
        scheduler.run(&share, &habit, true, Arc::default(), yields(0)).await,
        Ok(here),
        "a nested call"
    );
}

#[tokio::test]
async fn with_a_single_serving_thread_nothing_runs_on_it() {
    let scheduler = Scheduler::new(1).expect("a thread");
    let run = scheduler.run(&share("one", 100), &Habit::default(), false, Arc::default(), yields(0)).await;
    assert_ne!(run, Ok(thread::current().id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_its_own_run_only() {
    let scheduler = Scheduler::new(1).expect("a thread");
    let share = share("one", 100);
    for nested in [false, true] {
        let panics = std::future::poll_fn(|_| panic!("on purpose"));
        let lost: Result<(), Lost> =
            scheduler.run(&share, &Habit::default(), nested, Arc::default(), panics).await;
        assert_eq!(lost, Err(Lost));
        assert!(scheduler.run(&share, &Habit::default(), nested, Arc::default(), yields(1)).await.is_ok());
    }
    assert_eq!(scheduler.turns.here(), 0);
}

/// Says when it is dropped.
struct Dropped(mpsc::Sender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn endless(dropped: mpsc::Sender<()>) -> impl Future<Output = ()> + Send + Unpin {
    let dropped = Dropped(dropped);
    std::future::poll_fn(move |context: &mut Context<'_>| {
        let _ = &dropped;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_ends() {
    let scheduler = Scheduler::new(1).expect("a thread");
    let (dropped, ended) = mpsc::channel();
    let (share, habit) = (share("one", 100), Habit::default());
    let mut run = Box::pin(scheduler.run(&share, &habit, false, Arc::default(), endless(dropped)));
    for _ in 0..3 {
        assert!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    drop(run);
    assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(()));
}

#[tokio::test]
async fn what_waits_when_the_scheduler_goes_is_dropped() {
    let scheduler = Scheduler::new(2).expect("threads");
    let (dropped, ended) = mpsc::channel();
    let tasks: Vec<_> =
        (0..10).map(|_| scheduler.spawn(share("one", 100), endless(dropped.clone()))).collect();
    drop(scheduler);
    for task in tasks {
        assert_eq!(task.await, None);
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(()));
    }
}

/// Holds its thread until it is told to go on, as a bulk operation on a guest's memory does.
fn holds(begun: mpsc::Sender<()>, go_on: mpsc::Receiver<()>) -> impl Future<Output = ()> + Send + Unpin {
    let go_on = Mutex::new(go_on);
    std::future::poll_fn(move |_| {
        begun.send(()).expect("the test listens");
        let told = go_on.lock().expect("no panic").recv_timeout(Duration::from_secs(10));
        told.expect("the test tells");
        Poll::Ready(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_turn_that_does_not_end_other_tenants_go_on_and_its_own_does_not() {
    let scheduler = Scheduler::new(1).expect("threads");
    let (holder, other, habit) = (share("holder", 100), share("other", 100), Habit::default());
    let ((begun, begins), (tell, told)) = (mpsc::channel(), mpsc::channel());
    let held = scheduler.spawn(Arc::clone(&holder), holds(begun, told));
    begins.recv_timeout(Duration::from_secs(10)).expect("it runs");
    let own = scheduler.spawn(holder, yields(0));
    for _ in 0..10 {
        assert!(scheduler.run(&other, &habit, true, Arc::default(), yields(3)).await.is_ok());
    }
    assert!(!own.is_finished(), "who holds up a thread gets no other one");
    tell.send(()).expect("it waits");
    assert!(held.await.is_some() && own.await.is_some());
}
