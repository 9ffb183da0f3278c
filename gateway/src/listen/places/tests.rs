use futures_util::FutureExt;

use super::*;
use crate::authenticate::{KeyId, Scopes};

fn places(max: usize, max_per_address: usize) -> Arc<Places> {
    let limits = ListenLimits {
        max_connections: max,
        max_connections_per_address: max_per_address,
        ..ListenLimits::default()
    };
    Places::new(&limits)
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn take(places: &Arc<Places>, last: u8) -> Arc<Place> {
    places.take(address(last)).now_or_never().expect("at once").expect("a place")
}

fn lost(place: &Place) -> bool {
    place.lost().now_or_never().is_some()
}

/// Who comes without a key to a gateway that has none.
fn at_work(place: &Arc<Place>) -> Visitor {
    works(place, &TenantName::default_tenant(), None)
}

fn at_work_for(tenant: &str, place: &Arc<Place>) -> Visitor {
    let key = "0123456789abcdef".parse().expect("an id");
    works(place, &tenant.parse().expect("a name"), Some(key))
}

fn works(place: &Arc<Place>, tenant: &TenantName, key: Option<KeyId>) -> Visitor {
    let principal = Principal { tenant: tenant.clone(), scopes: Scopes::default(), key };
    let visitor = Visitor::new(address(0), place);
    visitor.is_known(&principal);
    visitor
}

#[test]
fn the_address_with_most_of_those_that_wait_gives_up_its_oldest() {
    let places = places(4, 0);
    let all: Vec<_> = [1, 2, 2, 3].map(|last| take(&places, last)).into();
    let new = take(&places, 4);
    assert_eq!(
        [&all[0], &all[1], &all[2], &all[3], &new].map(|place| lost(place)),
        [false, true, false, false, false]
    );
    assert_eq!(places.open(), 4);
    drop((all, new));
    assert_eq!(places.open(), 0);
    assert!(places.lock().networks.is_empty());
}

#[test]
fn strangers_go_before_those_who_were_at_work_and_these_before_nobody() {
    let places = places(3, 0);
    let (known, working, stranger) = (take(&places, 1), take(&places, 1), take(&places, 2));
    drop(at_work(&known));
    let work = at_work(&working);
    let first = take(&places, 3);
    let _work = at_work(&first);
    assert!(lost(&stranger));
    let second = take(&places, 3);
    assert!(lost(&known) && !lost(&working));
    let _more = at_work(&second);
    // All are at work now: the next one waits until one of them is not.
    let mut waits = Box::pin(places.take(address(9)));
    assert!((&mut waits).now_or_never().is_none());
    drop(work);
    let last = waits.now_or_never().flatten();
    assert!(last.is_some() && lost(&working));
    assert_eq!(places.open(), 3);
}

#[test]
fn a_place_that_was_lost_is_not_given_back_twice() {
    let places = places(1, 0);
    let old = take(&places, 1);
    let visitor = Visitor::new(address(1), &old);
    let new = take(&places, 1);
    visitor.place.begins(None);
    drop((visitor, old));
    assert_eq!(places.open(), 1);
    drop(new);
    assert!(places.empty().now_or_never().is_some());
}

#[test]
fn an_address_has_no_more_than_it_may_and_no_other_feels_it() {
    let places = places(10, 2);
    let held = [take(&places, 1), take(&places, 1)];
    assert!(places.take(address(1)).now_or_never().expect("at once").is_none());
    let _other = take(&places, 2);
    drop(held);
    let _again = take(&places, 1);
}

#[test]
fn what_a_tenant_has_beyond_its_part_may_be_cut_at_work_and_nothing_else() {
    let places = places(8, 0);
    let mine: Vec<_> = (0..6).map(|_| take(&places, 1)).collect();
    let _mine: Vec<_> = mine.iter().map(|place| at_work_for("acme", place)).collect();
    let other = take(&places, 2);
    let _other = at_work_for("other", &other);
    // The stranger's place is safe: of those beyond there are more.
    let stranger = take(&places, 3);
    let new: Vec<_> = (0..2).map(|_| take(&places, 4)).collect();
    assert_eq!(
        mine.iter().map(|place| lost(place)).collect::<Vec<_>>(),
        [false, false, true, true, false, false]
    );
    // Now there are more strangers.
    let _last = take(&places, 4);
    assert!(lost(&new[0]) && !lost(&stranger) && !lost(&mine[5]) && !lost(&other));
}

#[test]
fn a_place_in_a_tenants_part_comes_back() {
    let places = places(4, 0);
    let (first, second) = (take(&places, 1), take(&places, 1));
    let one = at_work_for("acme", &first);
    let two = at_work_for("acme", &second);
    // A kept connection counts as well, until it is gone or somebody else's.
    drop(one);
    drop(two);
    let two = at_work_for("acme", &second);
    assert!(places.lock().cut(Waits::Beyond) && lost(&second));
    drop(two);
    let other = at_work_for("other", &first);
    let third = take(&places, 2);
    let three = at_work_for("acme", &third);
    assert!(!places.lock().cut(Waits::Beyond));
    drop((other, three, first, second, third));
    let state = places.lock();
    assert!(state.open == 0 && state.parts.0.is_empty() && state.networks.is_empty());
}

#[test]
fn without_keys_nobody_has_a_part() {
    let places = places(4, 0);
    let all: Vec<_> = (0..4).map(|_| take(&places, 1)).collect();
    let _work: Vec<_> = all.iter().map(at_work).collect();
    assert!(places.take(address(2)).now_or_never().is_none());
}
