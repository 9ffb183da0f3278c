//! Counts of what a model did. Nobody else may call it meanwhile, or more is counted than is expected.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Case,
    Outcome::{self, Kept},
    Subject,
};

pub const CASES: &[Case] = &[
    Case { name: "each answered request is counted once, with its times", run: exact },
    Case { name: "what is refused is no success", run: refused },
    Case { name: "all models, one model and one version can be asked for", run: forms },
    Case { name: "an unknown model has none", run: unknown },
];

/// The counters of the version that answers.
fn ask(subject: &Subject) -> Result<Value> {
    let answer = subject.server.get(&subject.model.path("stats"))?.good()?;
    let list = answer["model_stats"].as_array().context("'model_stats' is no list")?;
    let own = list.iter().filter(|entry| entry["name"] == subject.model.name.as_str());
    let newest = own.max_by_key(|entry| entry["last_inference"].as_u64().unwrap_or_default());
    newest.cloned().with_context(|| format!("'{}' is not among them", subject.model.name))
}

/// The same once they stand still: a call may be counted after its answer was sent.
fn settled(subject: &Subject) -> Result<Value> {
    let mut last = ask(subject)?;
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        let next = ask(subject)?;
        if next == last {
            break;
        }
        last = next;
    }
    Ok(last)
}

fn count(statistics: &Value, of: &str) -> u64 {
    let inference = &statistics["inference_stats"][of];
    inference["count"].as_u64().unwrap_or_default()
}

fn exact(subject: &Subject) -> Result<Outcome> {
    const CALLS: u64 = 5;
    subject.model.answer(&subject.server)?;
    let before = settled(subject)?;
    for _ in 0..CALLS {
        subject.model.answer(&subject.server)?;
    }
    let after = settled(subject)?;
    for of in ["success", "queue", "compute_input", "compute_infer", "compute_output"] {
        let (was, is) = (count(&before, of), count(&after, of));
        ensure!(is == was + CALLS, "{of}: {was} before {CALLS} calls, {is} after them");
        let time = |at: &Value| at["inference_stats"][of]["ns"].as_u64().unwrap_or_default();
        ensure!(time(&after) >= time(&before), "{of}: its time went backwards");
    }
    let total = |at: &Value, key: &str| at[key].as_u64().unwrap_or_default();
    for key in ["inference_count", "execution_count"] {
        ensure!(total(&after, key) > total(&before, key), "{key} stands still");
    }
    let time = |of: &str| after["inference_stats"][of]["ns"].as_u64().unwrap_or_default();
    ensure!(time("success") >= time("compute_infer"), "running took longer than the whole");
    Ok(Kept)
}

fn refused(subject: &Subject) -> Result<Outcome> {
    subject.model.answer(&subject.server)?;
    let before = settled(subject)?;
    let request = subject.model.request_with(&json!({ "outputs": [{ "name": "no-such-output" }] }));
    subject.model.infer(&subject.server, &request)?.refused(400..=499)?;
    let after = settled(subject)?;
    ensure!(
        count(&after, "success") == count(&before, "success"),
        "a refused request is counted as a success"
    );
    Ok(Kept)
}

fn forms(subject: &Subject) -> Result<Outcome> {
    let all = subject.server.get("/v2/models/stats")?.good()?;
    let list = all["model_stats"].as_array().context("'model_stats' is no list")?;
    ensure!(
        list.iter().any(|entry| entry["name"] == subject.model.name.as_str()),
        "the model is not among all"
    );
    for version in &subject.model.versions {
        let one = subject.server.get(&subject.model.path(&format!("versions/{version}/stats")))?.good()?;
        let list = one["model_stats"].as_array().context("'model_stats' is no list")?;
        ensure!(list.len() == 1 && list[0]["version"] == version.as_str(), "version {version}: {one}");
    }
    Ok(Kept)
}

fn unknown(subject: &Subject) -> Result<Outcome> {
    subject.server.get("/v2/models/no-such-model/stats")?.refused(400..=499)?;
    Ok(Kept)
}
