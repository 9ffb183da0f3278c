use std::time::Duration;

use super::*;

fn admission(max_running: usize, max_queued: usize, max_buffered_bytes: usize) -> Arc<Admission> {
    Admission::new(&AdmitLimits { max_running, max_queued, max_buffered_bytes, ..AdmitLimits::default() })
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(20))
}

#[tokio::test]
async fn who_cannot_run_waits_for_a_place() {
    let admission = admission(1, 1, 0);
    let first = admission.enter(soon()).await.expect("a free place");
    let waiting = tokio::spawn({
        let admission = Arc::clone(&admission);
        async move { admission.enter(Deadline::after(Duration::from_secs(5))).await.map(drop) }
    });
    while admission.queued.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(admission.enter(soon()).await.map(drop), Err(AdmitError::QueueFull(1)));
    drop(first);
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
    assert_eq!(admission.queued.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn waiting_ends_with_the_deadline() {
    let admission = admission(1, 1, 0);
    let _first = admission.enter(soon()).await.expect("a free place");
    assert_eq!(admission.enter(soon()).await.map(drop), Err(AdmitError::Deadline));
    assert_eq!(admission.queued.load(Ordering::Relaxed), 0);
}

#[test]
fn reserved_bytes_come_back() {
    let admission = admission(1, 1, 100);
    let mut one = admission.reservation();
    assert_eq!(one.grow(60), Ok(()));
    let mut two = admission.reservation();
    assert_eq!(two.grow(60), Err(AdmitError::Bytes));
    assert_eq!(two.grow(usize::MAX), Err(AdmitError::Bytes));
    assert_eq!(one.resize(40), Ok(()));
    assert_eq!(two.resize(60), Ok(()));
    assert_eq!(two.resize(61), Err(AdmitError::Bytes));
    drop(one);
    assert_eq!(two.resize(100), Ok(()));
    drop(two);
    assert_eq!(admission.buffered.load(Ordering::Relaxed), 0);
}
