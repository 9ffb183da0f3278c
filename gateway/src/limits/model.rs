//! The limits of one model, as its own configuration sets them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;

use super::{DecodeLimits, Limits, NativeLimits, Quota, SandboxLimits};

/// Bounds that a model's configuration sets for itself; what it leaves open is the gateway's.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct ModelLimits {
    /// Time for one run of the model; waiting for its turn is not counted.
    pub deadline: Option<Duration>,
    /// Bytes of linear memory of one request; wasm models only.
    pub memory_bytes: Option<usize>,
    /// Bytes of an answer; of a wasm model also of what it hands to another model.
    pub output_bytes: Option<usize>,
    /// Bytes of a request body, as sent and after decompression.
    pub max_body_bytes: Option<usize>,
}

impl ModelLimits {
    /// Checks that none is above the gateway's own. `output_bytes` is the gateway's for a model of this kind.
    ///
    /// # Errors
    /// Which one is, for whoever wrote the configuration.
    pub fn check(&self, limits: &Limits, output_bytes: usize) -> Result<(), String> {
        let above = |name: &str, given: &dyn std::fmt::Debug, own: &dyn std::fmt::Debug| {
            Err(format!("limits: {name} is {given:?}, above the gateway's own {own:?}"))
        };
        for (name, given, own) in [
            ("memory", self.memory_bytes, limits.sandbox.memory_bytes),
            ("output", self.output_bytes, output_bytes),
            ("max_body", self.max_body_bytes, limits.decode.max_body_bytes),
        ] {
            if let Some(given) = given.filter(|given| *given > own) {
                return above(name, &given, &own);
            }
        }
        match self.deadline.filter(|deadline| *deadline > limits.admit.deadline) {
            Some(deadline) => above("deadline", &deadline, &limits.admit.deadline),
            None => Ok(()),
        }
    }

    /// Checks that none is above what the model's own tenant may use.
    ///
    /// # Errors
    /// Which one is, for whoever wrote the configuration.
    pub fn check_quota(&self, quota: &Quota) -> Result<(), String> {
        for (name, given, most) in [
            ("memory", self.memory_bytes, quota.guest_memory),
            ("output", self.output_bytes, quota.output),
            ("max_body", self.max_body_bytes, quota.max_body),
        ] {
            if let Some(given) = given.filter(|given| *given > most.bytes()) {
                return Err(format!("limits: {name} is {given}, above the {most} that this tenant may use"));
            }
        }
        match self.deadline.filter(|deadline| *deadline > quota.deadline.0) {
            Some(deadline) => Err(format!(
                "limits: deadline is {deadline:?}, above the {} that this tenant may use",
                quota.deadline
            )),
            None => Ok(()),
        }
    }

    /// These, and no more than the model's own tenant may use while it is loaded and runs. Only a sandbox can keep a bound
    /// on memory.
    #[must_use]
    pub fn within_quota(self, quota: &Quota, sandboxed: bool) -> Self {
        let least = |own: Option<usize>, most: usize| Some(own.map_or(most, |own| own.min(most)));
        Self {
            memory_bytes: if sandboxed {
                least(self.memory_bytes, quota.guest_memory.bytes())
            } else {
                self.memory_bytes
            },
            output_bytes: least(self.output_bytes, quota.output.bytes()),
            ..self
        }
    }

    /// By when a run that begins now has to end, if it has to by the given deadline anyway.
    pub fn within(&self, deadline: Deadline) -> Deadline {
        self.deadline.map_or(deadline, |time| deadline.min(Deadline::after(time)))
    }

    pub fn decode(&self, limits: &DecodeLimits) -> DecodeLimits {
        DecodeLimits { max_body_bytes: least(limits.max_body_bytes, self.max_body_bytes), ..limits.clone() }
    }

    pub fn sandbox(&self, limits: &SandboxLimits) -> SandboxLimits {
        SandboxLimits {
            memory_bytes: least(limits.memory_bytes, self.memory_bytes),
            output_bytes: least(limits.output_bytes, self.output_bytes),
            ..limits.clone()
        }
    }

    pub fn native_output(&self, limits: &NativeLimits) -> usize {
        least(limits.output_bytes, self.output_bytes)
    }
}

fn least(gateway: usize, model: Option<usize>) -> usize {
    model.map_or(gateway, |model| model.min(gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_can_only_take_away() {
        let gateway = Limits::default();
        let with = |limits: ModelLimits| limits.check(&gateway, 1000);
        let (deadline, memory) = (gateway.admit.deadline, gateway.sandbox.memory_bytes);
        let all = ModelLimits {
            deadline: Some(deadline),
            memory_bytes: Some(memory),
            output_bytes: Some(1000),
            max_body_bytes: Some(gateway.decode.max_body_bytes),
        };
        assert_eq!((with(ModelLimits::default()), with(all)), (Ok(()), Ok(())));
        for (limits, name) in [
            (ModelLimits { deadline: Some(deadline + Duration::from_nanos(1)), ..all }, "deadline"),
            (ModelLimits { memory_bytes: Some(memory + 1), ..all }, "memory"),
            (ModelLimits { output_bytes: Some(1001), ..all }, "output"),
            (ModelLimits { max_body_bytes: Some(usize::MAX), ..all }, "max_body"),
        ] {
            let error = with(limits).expect_err(name);
            assert!(error.starts_with(&format!("limits: {name} is ")), "{error}");
        }
        // A gateway's limits may have been lowered since.
        let sandbox = ModelLimits { memory_bytes: Some(usize::MAX), ..all }.sandbox(&gateway.sandbox);
        assert_eq!((sandbox.memory_bytes, sandbox.output_bytes), (memory, 1000));
    }

    #[test]
    fn the_earlier_deadline_counts() {
        let soon = Deadline::after(Duration::from_secs(1));
        let limits =
            |seconds| ModelLimits { deadline: Some(Duration::from_secs(seconds)), ..Default::default() };
        assert_eq!(limits(60).within(soon), soon);
        assert_eq!(ModelLimits::default().within(soon), soon);
        assert!(limits(0).within(soon) < soon);
    }
}
