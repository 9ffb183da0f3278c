use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{limits::Quotas, name::TenantName};

fn tenant(name: &str) -> TenantName {
    name.parse().expect("a name")
}

fn own(values: &[(&str, &str)]) -> TenantLimits {
    let mut limits = TenantLimits::default();
    for (name, value) in values {
        limits.set(name, value).expect(name);
    }
    limits
}

#[test]
fn a_tenant_may_have_more_than_others_but_no_more_than_anybody() {
    let limits = Limits::default();
    let quotas = Quotas::new(&limits);
    let acme = own(&[("storage", "10GiB"), ("running", "16"), ("deadline", "1h"), ("guest_memory", "1MiB")]);
    let quota = quotas.with(&tenant("acme"), &acme);
    assert_eq!((quota.storage, quota.running), (Size(10 << 30), 16));
    assert_eq!(quota.deadline.0, limits.admit.deadline);
    assert_eq!((quota.guest_memory, quota.max_body), (Size(1 << 20), limits.decode.max_body_bytes.into()));
}

#[test]
fn what_is_above_the_ceiling_is_refused_with_the_ceiling() {
    let limits = Limits::default();
    for (name, value, ceiling, flag) in [
        ("running", "129", "128", "--max-running"),
        ("queued", "1025", "1024", "--max-queued"),
        ("deadline", "3s", "2s", "--deadline"),
        ("max_body", "65MiB", "64MiB", "--max-body"),
        ("output", "257MiB", "256MiB", "--native-output"),
        ("guest_memory", "257MiB", "256MiB", "--guest-memory"),
        ("max_upload", "257MiB", "256MiB", "--max-upload"),
    ] {
        assert_eq!(own(&[(name, ceiling)]).check(&limits), Ok(()), "{name}");
        let error = own(&[(name, value)]).check(&limits).expect_err(name);
        for part in [name, value, ceiling, flag] {
            assert!(error.contains(part), "{error}");
        }
    }
    let bounded = TenantLimits::ceiling(&limits).written().len();
    assert_eq!(bounded, 7, "each ceiling has its case above");
}

#[test]
fn what_would_refuse_everything_by_mistake_is_refused() {
    for (name, value) in [
        ("deadline", "0s"),
        ("max_body", "0"),
        ("output", "0"),
        ("guest_memory", "1KiB"),
        ("burst", "0"),
        ("rate", "-1"),
        ("models", "many"),
        ("storage", "-1"),
    ] {
        let error = TenantLimits::default().set(name, value).expect_err(name);
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
    let error = TenantLimits::default().set("store", "1GiB").expect_err("no such limit");
    assert!(error.contains("storage"), "{error}");
    assert!(TenantLimits::default().unset("store").is_err());
}

#[test]
fn clients_write_json_and_mistakes_are_named() {
    let limits = TenantLimits::from_json(
        json!({ "storage": "10GiB", "models": 3, "rate": 0.5, "deadline": "500ms", "queued": null }),
    );
    let limits = limits.expect("limits");
    let same = own(&[("storage", "10GiB"), ("models", "3"), ("rate", "0.5"), ("deadline", "500ms")]);
    assert_eq!(limits, same);
    let told = serde_json::to_value(limits).expect("JSON");
    assert_eq!((&told["storage"], &told["deadline"]), (&json!(10_u64 << 30), &json!("500ms")));
    assert_eq!(TenantLimits::from_json(told), Ok(limits));
    for (body, part) in [
        (json!([]), "JSON object"),
        (json!({ "sotrage": 1 }), "sotrage"),
        (json!({ "models": -1 }), "models: "),
        (json!({ "rate": "fast" }), "rate: "),
        (json!({ "deadline": 5 }), "deadline: "),
        (json!({ "burst": 0 }), "burst: "),
        (json!({ "weight": 0 }), "weight: "),
        (json!({ "weight": 10_001 }), "weight: "),
    ] {
        let error = TenantLimits::from_json(body).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_record_of_another_version_can_be_read() {
    let limits: TenantLimits =
        serde_json::from_value(json!({ "models": 3, "of_tomorrow": { "a": 1 } })).expect("limits");
    assert_eq!(limits.written(), [("models", "3".to_owned())]);
}

#[test]
fn the_tenant_default_is_not_slowed_down_unless_told() {
    let quotas = Quotas::new(&Limits::default());
    let (default, acme) = (TenantName::default_tenant(), tenant("acme"));
    assert_eq!((quotas.of(&default).rate, quotas.of(&default).running), (Rate::NONE, 0));
    assert_eq!((quotas.of(&acme).rate, quotas.of(&acme).running), (Rate::per_second(50), 4));
    quotas.install([(default.clone(), own(&[("rate", "1")])), (acme.clone(), own(&[("deadline", "1s")]))]);
    assert_eq!(quotas.of(&default).rate, Rate::per_second(1));
    assert_eq!(quotas.of(&acme).deadline.0, Duration::from_secs(1));
    quotas.install([(acme.clone(), TenantLimits::default())]);
    assert_eq!((quotas.of(&default).rate, quotas.of(&acme).deadline.0), (Rate::NONE, Duration::from_secs(2)));
}

#[test]
fn the_documentation_has_every_limit_with_its_flag_and_default() {
    let page = include_str!("../../../../docs/tenants.md");
    let defaults = Quotas::new(&Limits::default()).of(&tenant("acme")).written();
    let ceilings = TenantLimits::ceiling(&Limits::default()).written();
    for ((name, flags, bounds), (_, default)) in TenantLimits::ALL.iter().zip(defaults) {
        let row =
            page.lines().find(|line| line.starts_with(&format!("| `{name}` | {bounds} | "))).expect(name);
        let [.., gateway, ceiling, _] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        assert!(gateway.ends_with(&format!(" {default} ")), "{row}");
        for flag in flags.split(", ").filter(|flag| !flag.is_empty()) {
            assert!(gateway.contains(&format!("`{flag}`")), "{row}");
        }
        let told = ceilings.iter().find(|(ceiling, _)| ceiling == name);
        let told = told.map(|(_, most)| {
            if *most == default {
                " the same ".into()
            } else {
                format!(" `--{}` {most} ", ceiling_flag(name))
            }
        });
        assert_eq!(ceiling, told.unwrap_or_else(|| " ".into()), "{row}");
    }
}
