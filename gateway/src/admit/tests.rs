use std::time::Duration;

use super::*;
use crate::limits::{AdmitLimits, Limits, MemoryLimits, Quotas};

fn admission(max_running: usize, max_queued: usize, max_buffered_bytes: usize) -> Arc<Admission> {
    let admit = AdmitLimits { max_running, max_queued, max_buffered_bytes, ..AdmitLimits::default() };
    let limits = Limits { admit, ..Limits::default() };
    Admission::new(&limits, Arc::new(MemoryWatch::new(&MemoryLimits::default())))
}

fn tenant(name: &str) -> TenantName {
    name.parse().expect("a name")
}

fn unlimited() -> Quota {
    Quotas::new(&Limits::default()).of(&TenantName::default_tenant())
}

/// As the gateway knows it without tenants.
async fn enter(admission: &Admission, deadline: Deadline) -> Result<Permit, AdmitError> {
    admission.enter(&TenantName::default_tenant(), &unlimited(), deadline).await
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(20))
}

#[tokio::test]
async fn who_cannot_run_waits_for_a_place() {
    let admission = admission(1, 1, 0);
    let first = enter(&admission, soon()).await.expect("a free place");
    let waiting = tokio::spawn({
        let admission = Arc::clone(&admission);
        async move { enter(&admission, Deadline::after(Duration::from_secs(5))).await.map(drop) }
    });
    while admission.queued.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(enter(&admission, soon()).await.map(drop), Err(AdmitError::QueueFull(1)));
    drop(first);
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
    assert_eq!(admission.queued.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn waiting_ends_with_the_deadline() {
    let admission = admission(1, 1, 0);
    let _first = enter(&admission, soon()).await.expect("a free place");
    assert_eq!(enter(&admission, soon()).await.map(drop), Err(AdmitError::Deadline));
    assert_eq!(admission.queued.load(Ordering::Relaxed), 0);
}

#[test]
fn reserved_bytes_come_back() {
    let admission = admission(1, 1, 100);
    let mut one = admission.reservation(&TenantName::default_tenant(), &unlimited());
    assert_eq!(one.grow(60), Ok(()));
    let mut two = admission.reservation(&TenantName::default_tenant(), &unlimited());
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

#[tokio::test]
async fn one_tenant_s_limits_are_not_another_s() {
    let admission = admission(10, 10, 0);
    let quota = Quota { running: 1, queued: 0, rate: Rate::per_second(1), burst: 2, ..unlimited() };
    let (one, two) = (tenant("one"), tenant("two"));
    let taken = admission.enter(&one, &quota, soon()).await.expect("a free place");
    let busy = Err(AdmitError::TenantBusy { running: 1, queued: 0 });
    assert_eq!(admission.enter(&one, &quota, soon()).await.map(drop), busy);
    assert!(admission.enter(&two, &quota, soon()).await.is_ok());
    drop(taken);
    assert!(admission.enter(&one, &quota, soon()).await.is_ok());

    let often = Err(AdmitError::TooOften { rate: Rate::per_second(1), seconds: 1 });
    let arrive = |tenant: &TenantName| admission.take_token(tenant, &quota);
    assert_eq!((arrive(&one), arrive(&one), arrive(&one)), (Ok(()), Ok(()), often));
    assert_eq!(arrive(&two), Ok(()));
}

#[tokio::test]
async fn a_tenant_s_place_comes_back_when_the_gateway_has_none() {
    let admission = admission(1, 0, 0);
    let quota = Quota { running: 1, queued: 0, ..unlimited() };
    let taken = enter(&admission, soon()).await.expect("a free place");
    for _ in 0..2 {
        let full = admission.enter(&tenant("one"), &quota, soon()).await.map(drop);
        assert_eq!(full, Err(AdmitError::QueueFull(0)));
    }
    drop(taken);
    assert!(admission.enter(&tenant("one"), &quota, soon()).await.is_ok());
}

#[test]
fn the_time_to_wait_is_told_in_whole_seconds_rounded_up() {
    let admission = admission(1, 0, 0);
    let quota = Quota { rate: "0.4".parse().expect("a rate"), burst: 1, ..unlimited() };
    assert_eq!(admission.take_token(&tenant("one"), &quota), Ok(()));
    let often = admission.take_token(&tenant("one"), &quota);
    assert_eq!(often, Err(AdmitError::TooOften { rate: quota.rate, seconds: 3 }));
}

#[tokio::test]
async fn accounts_that_say_nothing_are_forgotten() {
    let admission = admission(10, 10, 0);
    let quota = Quota { running: 1, queued: 0, ..unlimited() };
    for number in 0..1000 {
        drop(admission.enter(&tenant(&format!("t{number}")), &quota, soon()).await.expect("a free place"));
    }
    let known = || admission.accounts.lock().expect("no panic").len();
    assert_eq!(known(), 1);
    let _held = admission.enter(&tenant("held"), &quota, soon()).await.expect("a free place");
    let slow = Quota { rate: Rate::per_second(1), burst: 1000, ..unlimited() };
    admission.take_token(&tenant("owes"), &slow).expect("a token");
    admission.account(&tenant("new"));
    assert_eq!(known(), 3);
    // Without limits nothing is kept at all.
    enter(&admission, soon()).await.expect("a free place");
    assert_eq!(admission.take_token(&tenant("free"), &unlimited()), Ok(()));
    assert_eq!(known(), 3);
}

#[test]
fn a_burst_may_be_raised_to_any_number() {
    let admission = admission(1, 1, 0);
    let quota = |burst| Quota { rate: "0.001".parse().expect("a rate"), burst, ..unlimited() };
    assert_eq!(admission.take_token(&tenant("one"), &quota(1)), Ok(()));
    // It fills up from what it had; until then there is nothing in it.
    assert!(matches!(
        admission.take_token(&tenant("one"), &quota(u64::MAX)),
        Err(AdmitError::TooOften { seconds: 900.., .. })
    ));
    assert_eq!(admission.take_token(&tenant("two"), &quota(u64::MAX)), Ok(()));
}

#[test]
fn a_tenant_has_no_more_under_way_than_may_run_and_wait() {
    let admission = admission(10, 10, 0);
    let quota = Quota { running: 1, queued: 1, ..unlimited() };
    let seats = [(); 2].map(|()| admission.arrive(&tenant("one"), &quota).expect("a seat"));
    let busy = AdmitError::TenantBusy { running: 1, queued: 1 };
    assert_eq!(admission.arrive(&tenant("one"), &quota).map(drop), Err(busy));
    assert!(admission.arrive(&tenant("two"), &quota).is_ok());
    drop(seats);
    assert!(admission.arrive(&tenant("one"), &quota).is_ok());
}

#[test]
fn a_tenant_holds_no_more_than_its_part_of_the_bytes() {
    let mut limits = Limits::default();
    limits.admit.max_buffered_bytes = 1000;
    let quota = Quotas::new(&limits).of(&tenant("one"));
    let admission = Admission::new(&limits, Arc::new(MemoryWatch::new(&MemoryLimits::default())));
    let of = |name| admission.reservation(&tenant(name), &quota);
    let (mut one, mut more, mut other) = (of("one"), of("one"), of("two"));
    assert_eq!(one.grow(200), Ok(()));
    assert_eq!(more.grow(51), Err(AdmitError::TenantBytes(250)));
    assert_eq!((more.grow(50), other.grow(250)), (Ok(()), Ok(())));
    // What the gateway has no room for is not counted against the tenant.
    let mut all = admission.reservation(&TenantName::default_tenant(), &unlimited());
    assert_eq!(all.grow(500), Ok(()));
    assert_eq!(of("three").grow(1), Err(AdmitError::Bytes));
    drop(all);
    assert_eq!(one.resize(100), Ok(()));
    assert_eq!(more.grow(100), Ok(()));
    drop((one, more));
    // Alone, one request may be larger than the part.
    let mut large = of("one");
    assert_eq!((large.grow(200), large.grow(200)), (Ok(()), Ok(())));
    assert_eq!(of("one").grow(1), Err(AdmitError::TenantBytes(250)));
    // So may a request and its responses together.
    let mut response = large.another();
    assert_eq!(response.grow(200), Ok(()));
    large.shrink_to(0);
    assert_eq!((response.resize(300), large.another().grow(100)), (Ok(()), Ok(())));
    let mut beside = of("one");
    assert_eq!((beside.grow(1), response.grow(100)), (Err(AdmitError::TenantBytes(250)), Ok(())));
    drop((large, response));
    assert_eq!(of("one").grow(750), Ok(()));
}
