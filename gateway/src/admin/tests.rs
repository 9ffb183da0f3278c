use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use hyper::{HeaderMap, Uri, header};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};

use super::*;
use crate::{
    authenticate::{ApiKey, AuthenticateError, Authenticator, KeyRecord, Principal, Scope, Trust, now},
    limits::{Limits, Quotas},
    repository::artifacts::{
        Artifacts, FOLLOW_INTERVAL, Follow, Generation, RecordPath, tests::faulty::Faulty,
    },
    secret::{LENGTH, Purpose, Secret},
};

/// A store, and what works on it with the same secret.
struct Place {
    store: Arc<Faulty>,
    secret: Secret,
}

impl Place {
    fn new() -> Self {
        Self {
            store: Arc::new(Faulty::new(Arc::new(InMemory::new()))),
            secret: Secret::from_bytes([3; LENGTH]),
        }
    }

    fn artifacts(&self) -> Arc<Artifacts> {
        Arc::new(Artifacts::new(Arc::clone(&self.store) as Arc<dyn ObjectStore>, &self.secret))
    }

    fn tenants(&self) -> Tenants {
        Tenants::new(self.artifacts(), self.secret.key(Purpose::ApiKey))
    }

    /// A gateway's authenticator, and what keeps its keys.
    fn gateway(&self) -> (Arc<Authenticator>, Looks) {
        let authenticator = Authenticator::new(Trust::Loopback, self.secret.key(Purpose::ApiKey));
        let (artifacts, authenticator) = (self.artifacts(), Arc::new(authenticator));
        let quotas = Arc::new(Quotas::new(&Limits::default()));
        let keys = FollowKeys::new(Arc::clone(&artifacts), Arc::clone(&authenticator), quotas);
        (authenticator, Looks { artifacts, keys })
    }
}

/// The looks at the store of one gateway.
struct Looks {
    artifacts: Arc<Artifacts>,
    keys: FollowKeys,
}

impl Looks {
    async fn look(&mut self) -> Result<(), ArtifactError> {
        self.keys.learn(&self.artifacts.survey().await?).await
    }
}

fn name(text: &str) -> TenantName {
    text.parse().expect("a name")
}

fn infer() -> NewKey {
    NewKey { scopes: Scopes::from_iter([Scope::Infer]), ..NewKey::default() }
}

fn ask(authenticator: &Authenticator, key: Option<&ApiKey>) -> Result<Arc<Principal>, AuthenticateError> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let value = format!("Bearer {}", *key.reveal());
        headers.insert(header::AUTHORIZATION, value.parse().expect("a header value"));
    }
    authenticator.principal(IpAddr::from([192, 0, 2, 1]), &Uri::from_static("/v2"), &headers)
}

#[tokio::test]
async fn a_tenant_s_key_is_let_in_after_one_look_and_shut_out_after_another() {
    let place = Place::new();
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    assert!(ask(&authenticator, None).is_ok(), "without keys everybody is the default tenant");

    let (tenants, acme) = (place.tenants(), name("acme"));
    assert!(tenants.create(&acme, 10).await.expect("a tenant").1);
    assert!(!tenants.create(&acme, 11).await.expect("the same tenant").1);
    let (key, KeyOf { record, .. }) = tenants.create_key(&acme, infer(), now()).await.expect("a key");
    assert_eq!(ask(&authenticator, Some(&key)).expect("not seen yet").tenant.as_str(), "default");
    follow.look().await.expect("a look");
    let principal = ask(&authenticator, Some(&key)).expect("a valid key");
    assert_eq!((principal.tenant.as_str(), principal.key), ("acme", Some(record.id)));
    assert_eq!(ask(&authenticator, None), Err(AuthenticateError::Missing));

    let revoked = tenants.revoke(None, record.id, 20).await.expect("revoked");
    assert_eq!((revoked.tenant, revoked.record.revoked), (acme.clone(), Some(20)));
    let again = tenants.revoke(Some(&acme), record.id, 30).await.expect("revoked");
    assert_eq!(again.record.revoked, Some(20), "the second time changes nothing");
    follow.look().await.expect("a look");
    assert_eq!(ask(&authenticator, Some(&key)), Err(AuthenticateError::Wrong));
    assert_eq!(ask(&authenticator, None), Err(AuthenticateError::Missing), "never open again");
}

#[tokio::test]
async fn a_gateway_that_starts_later_never_opens_if_there_ever_was_a_key() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let (key, KeyOf { record, .. }) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    tenants.revoke(None, record.id, 20).await.expect("revoked");
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    assert_eq!(ask(&authenticator, None), Err(AuthenticateError::Missing));
    assert_eq!(ask(&authenticator, Some(&key)), Err(AuthenticateError::Wrong));
}

#[tokio::test]
async fn two_live_keys_with_the_same_scopes_are_enough_for_rotation() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let (_, KeyOf { record: first, .. }) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    let (_, KeyOf { record: second, .. }) =
        tenants.create_key(&acme, NewKey { expires: Some(50), ..infer() }, 20).await.expect("a key");
    let refused = tenants.create_key(&acme, infer(), 30).await.expect_err("a third");
    let text = refused.to_string();
    assert!(text.contains("revoke one first") && text.contains(&first.id.to_string()), "{text}");
    assert!(text.contains(&second.id.to_string()), "{text}");
    // Other scopes are another kind of key; expired and revoked ones do not count.
    let other = NewKey { scopes: Scopes::all(), ..NewKey::default() };
    tenants.create_key(&acme, other, 30).await.expect("a key with other scopes");
    tenants.create_key(&acme, infer(), 60).await.expect("one has expired");
    tenants.revoke(None, first.id, 60).await.expect("revoked");
    tenants.create_key(&acme, infer(), 60).await.expect("one is revoked");
    assert_eq!(tenants.keys(Some(&acme)).await.expect("keys").len(), 5);
}

#[tokio::test]
async fn keys_that_make_no_sense_are_refused() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    let unknown = tenants.create_key(&acme, infer(), 10).await.expect_err("no tenant");
    assert!(unknown.to_string().contains("airlock tenant create acme"), "{unknown}");
    tenants.create(&acme, 10).await.expect("a tenant");
    for new in [
        NewKey::default(),
        NewKey { label: Some("x".repeat(65)), ..infer() },
        NewKey { label: Some("a\nb".into()), ..infer() },
        NewKey { expires: Some(10), ..infer() },
    ] {
        assert!(tenants.create_key(&acme, new.clone(), 10).await.is_err(), "{new:?}");
    }
    let id: KeyId = "0123456789abcdef".parse().expect("an id");
    assert!(matches!(tenants.revoke(None, id, 10).await, Err(AdminError::UnknownKey(_))));
    assert!(matches!(tenants.remove(&name("nobody"), 10).await, Err(AdminError::UnknownTenant(_))));
}

#[tokio::test]
async fn another_tenant_s_key_is_not_found() {
    let place = Place::new();
    let tenants = place.tenants();
    for tenant in ["acme", "umbrella"] {
        tenants.create(&name(tenant), 10).await.expect("a tenant");
    }
    let (_, KeyOf { record, .. }) = tenants.create_key(&name("acme"), infer(), 10).await.expect("a key");
    let foreign = tenants.revoke(Some(&name("umbrella")), record.id, 20).await;
    assert!(matches!(foreign, Err(AdminError::UnknownKey(_))));
    let keys = tenants.keys(None).await.expect("keys");
    assert_eq!(keys, [KeyOf { tenant: name("acme"), record }]);
    assert_eq!(tenants.keys(Some(&name("umbrella"))).await.expect("keys"), []);
}

#[tokio::test]
async fn removing_a_tenant_ends_its_keys_for_good() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    tenants.create(&name("umbrella"), 10).await.expect("a tenant");
    let (key, _) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    let (other, _) = tenants.create_key(&name("umbrella"), infer(), 10).await.expect("a key");
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    assert!(ask(&authenticator, Some(&key)).is_ok());

    assert_eq!(tenants.remove(&acme, 20).await.expect("removed"), 1);
    assert!(matches!(tenants.remove(&acme, 21).await, Err(AdminError::UnknownTenant(_))));
    follow.look().await.expect("a look");
    assert_eq!(ask(&authenticator, Some(&key)), Err(AuthenticateError::Wrong));
    assert!(ask(&authenticator, Some(&other)).is_ok());
    let names: Vec<_> = tenants.list().await.expect("tenants").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [name("umbrella")]);

    let again = tenants.create(&acme, 30).await;
    assert!(matches!(again, Err(AdminError::NameTaken(_))), "what it kept would be somebody else's");
    follow.look().await.expect("a look");
    assert_eq!(ask(&authenticator, Some(&key)), Err(AuthenticateError::Wrong));
}

#[tokio::test]
async fn a_removal_that_is_cut_short_leaves_no_key_that_comes_back() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let (key, _) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    // The first of the removal's puts, and nothing after it.
    let path = RecordPath::Tenant(acme.clone());
    let removed = TenantRecord { created: 10, removed: Some(20), limits: TenantLimits::default() };
    place.artifacts().append(&path, Some(Generation::FIRST), &removed).await.expect("removed");
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    assert_eq!(ask(&authenticator, Some(&key)), Err(AuthenticateError::Wrong));
    assert!(matches!(tenants.create(&acme, 30).await, Err(AdminError::NameTaken(_))));
    follow.look().await.expect("a look");
    assert_eq!(ask(&authenticator, Some(&key)), Err(AuthenticateError::Wrong));
}

#[tokio::test]
async fn two_who_revoke_and_remove_at_once_both_succeed() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let (_, KeyOf { record, .. }) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    let (one, other) = (place.tenants(), place.tenants());
    let id = record.id;
    let (revoked, removed) = tokio::join!(one.revoke(None, id, 20), other.remove(&acme, 21));
    assert!(revoked.is_ok() && removed.is_ok(), "{revoked:?} {removed:?}");
    let keys = tenants.keys(None).await.expect("keys");
    assert!(!keys[0].record.is_live(22));
}

#[tokio::test]
async fn records_that_somebody_else_wrote_are_not_used_and_shut_the_door() {
    let place = Place::new();
    let forger = Place { store: Arc::clone(&place.store), secret: Secret::from_bytes([4; LENGTH]) };
    let acme = name("acme");
    forger.tenants().create(&acme, 10).await.expect("a tenant");
    let (key, _) = forger.tenants().create_key(&acme, infer(), 10).await.expect("a key");
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    assert_eq!(ask(&authenticator, Some(&key)), Err(AuthenticateError::Wrong));
    assert_eq!(ask(&authenticator, None), Err(AuthenticateError::Missing));
}

#[tokio::test]
async fn a_record_that_is_put_back_or_lost_does_not_bring_a_key_back() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let (live, _) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    let (ended, KeyOf { record, .. }) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    tenants.revoke(None, record.id, 20).await.expect("revoked");
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    // Everything is gone; then only the first generation of each record is there again.
    let listed: Vec<_> = place.store.list(None).try_collect().await.expect("a listing");
    for object in &listed {
        if !object.location.as_ref().ends_with("0000000001") {
            place.store.delete(&object.location).await.expect("deleted");
        }
    }
    let _ = follow.look().await;
    assert_eq!(ask(&authenticator, Some(&ended)), Err(AuthenticateError::Wrong));
    assert!(ask(&authenticator, Some(&live)).is_ok());
    for object in &listed {
        let _ = place.store.delete(&object.location).await;
    }
    let _ = follow.look().await;
    assert_eq!(ask(&authenticator, Some(&ended)), Err(AuthenticateError::Wrong));
    assert!(ask(&authenticator, Some(&live)).is_ok(), "the last keyring stays in force");
}

#[tokio::test]
async fn a_revocation_is_followed_without_asking() {
    assert!(2 * FOLLOW_INTERVAL < Duration::from_secs(5));
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let (key, KeyOf { record, .. }) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    let (looks, surveys) = Follow::begin(follow.artifacts).await.expect("a look");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let looking = tokio::spawn(looks.run(Duration::from_millis(5), async move {
        let _ = stopped.await;
    }));
    let running = tokio::spawn(follow.keys.run(surveys));
    assert!(ask(&authenticator, Some(&key)).is_ok());
    tenants.revoke(None, record.id, 20).await.expect("revoked");
    let shut_out = async {
        while ask(&authenticator, Some(&key)).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), shut_out).await.expect("within the time");
    drop(stop);
    looking.await.expect("it ends when it is told to");
    running.await.expect("it ends when nobody looks any more");
}

#[tokio::test]
async fn the_store_holds_nothing_by_which_a_key_could_be_used() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let new = NewKey { label: Some("laptop".into()), ..infer() };
    let (key, KeyOf { record, .. }) = tenants.create_key(&acme, new, 10).await.expect("a key");
    let text = key.reveal();
    let secret = text.split('_').nth(2).expect("the secret");
    let listed: Vec<_> = place.store.list(None).try_collect().await.expect("a listing");
    assert_eq!(listed.len(), 2);
    for object in listed {
        let bytes = place.store.get(&object.location).await.expect("there").bytes().await.expect("bytes");
        assert!(!String::from_utf8_lossy(&bytes).contains(&secret[..8]), "{}", object.location);
        assert!(!object.location.as_ref().contains(&secret[..8]));
    }
    let kept: KeyRecord = tenants.keys(None).await.expect("keys").remove(0).record;
    assert_eq!((kept, record.label.as_deref()), (record.clone(), Some("laptop")));
}

#[tokio::test]
async fn while_a_record_cannot_be_read_nothing_changes_and_then_everything_does() {
    let place = Place::new();
    let (tenants, acme) = (place.tenants(), name("acme"));
    tenants.create(&acme, 10).await.expect("a tenant");
    let (live, _) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    let (ended, KeyOf { record, .. }) = tenants.create_key(&acme, infer(), 10).await.expect("a key");
    let (authenticator, mut follow) = place.gateway();
    follow.look().await.expect("a look");
    tenants.revoke(None, record.id, 20).await.expect("revoked");
    let survey = follow.artifacts.survey().await.expect("a survey");
    place.store.set_down(true);
    follow.keys.learn(&survey).await.expect_err("the store is away");
    assert!(ask(&authenticator, Some(&live)).is_ok() && ask(&authenticator, Some(&ended)).is_ok());
    place.store.set_down(false);
    follow.keys.learn(&survey).await.expect("it is back");
    assert_eq!(ask(&authenticator, Some(&ended)), Err(AuthenticateError::Wrong));
    assert!(ask(&authenticator, Some(&live)).is_ok());
}
