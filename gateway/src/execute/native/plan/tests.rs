use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use tract_onnx::prelude::{IntoRunnable, TypedModel};

use super::*;

fn plan() -> Result<Plan, PlanError> {
    Ok(Plan::new(TypedModel::default().into_runnable().expect("an empty graph runs")))
}

fn shapes(size: usize) -> Shapes {
    vec![vec![size, 2]]
}

#[test]
fn a_plan_is_built_once_and_kept_until_others_push_it_out() {
    let cache = PlanCache::new(2);
    let built = AtomicUsize::new(0);
    let get = |size| {
        let build = || {
            built.fetch_add(1, Ordering::Relaxed);
            plan()
        };
        cache.get_or_build(&shapes(size), build).expect("builds");
        built.load(Ordering::Relaxed)
    };
    assert_eq!([get(1), get(1), get(2), get(1)], [1, 1, 2, 2]);
    // 2 is now the least recently used.
    assert_eq!([get(3), get(1), get(2)], [3, 3, 4]);
    for size in 0..100 {
        get(size);
    }
    assert_eq!(cache.len(), 2);
}

#[test]
fn a_failure_is_told_and_leaves_the_plans_alone() {
    let cache = PlanCache::new(1);
    cache.get_or_build(&shapes(1), plan).expect("builds");
    let refused = || Err(PlanError::Refused("no".into()));
    assert_eq!(cache.get_or_build(&shapes(2), refused).err(), Some(PlanError::Refused("no".into())));
    assert_eq!((cache.len(), cache.lock().building.len()), (1, 0));
    cache.get_or_build(&shapes(1), || panic!("it is still there")).expect("kept");
}

#[test]
fn those_who_ask_at_the_same_time_share_one_build() {
    let cache = PlanCache::new(4);
    let built = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let build = || {
                    built.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(50));
                    plan()
                };
                cache.get_or_build(&shapes(1), build).expect("builds");
            });
        }
    });
    assert_eq!((built.load(Ordering::Relaxed), cache.len()), (1, 1));
}
