//! The limits of one tenant, as an operator sets them, and what comes of them and the gateway's.

use serde::{Deserialize, Serialize};

use super::{Limits, Rate, Size, Span};

/// One line for each limit: its name in JSON and on the command line, and the flag of the gateway that it stands beside, if there is one.
macro_rules! tenant_limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty, $flag:literal;)+) => {
        /// What an operator sets for one tenant; what it leaves open is the gateway's.
        ///
        /// Unknown names are ignored where it is read from the store: a newer gateway may have written them.
        #[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
        #[serde(default)]
        pub struct TenantLimits {
            $(
                $(#[doc = $doc])+
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$kind>,
            )+
        }

        /// What one tenant may use, every limit decided.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub struct Quota {
            $($(#[doc = $doc])+ pub $name: $kind,)+
        }

        impl TenantLimits {
            /// The name of each limit, the gateway's flag that it stands beside, and what it bounds.
            pub const ALL: &[(&str, &str, &str)] =
                &[$((stringify!($name), $flag, concat!($($doc),+).trim_ascii())),+];

            /// Sets one limit, as it is written on the command line.
            ///
            /// # Errors
            /// What is wrong with the name or the value.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
                match name {
                    $(stringify!($name) => {
                        let value = value.parse::<$kind>().map_err(|error| format!("{name}: {value:?} cannot be read: {error}"))?;
                        self.$name = Some(value);
                    })+
                    _ => return Err(unknown(name)),
                }
                self.sound()
            }

            /// Leaves one limit to the gateway.
            ///
            /// # Errors
            /// If there is none of that name.
            pub fn unset(&mut self, name: &str) -> Result<(), String> {
                match name {
                    $(stringify!($name) => self.$name = None,)+
                    _ => return Err(unknown(name)),
                }
                Ok(())
            }

            /// These, and where they are open those of `other`.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)+ }
            }

            /// Those that are set, as they are written on the command line.
            pub fn written(&self) -> Vec<(&'static str, String)> {
                let all = [$((stringify!($name), self.$name.map(|value| value.to_string()))),+];
                all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
            }

            /// Checks that none is above what the gateway allows anybody.
            ///
            /// # Errors
            /// Which one is, and how high it may be.
            pub fn check(&self, limits: &Limits) -> Result<(), String> {
                self.sound()?;
                let most = Self::ceiling(limits);
                $(if let (Some(own), Some(most)) = (self.$name, most.$name)
                    && own > most
                {
                    let name = stringify!($name);
                    return Err(format!("{name}: {own} is above the gateway's own {most} (--{})", ceiling_flag(name)));
                })+
                Ok(())
            }
        }

        impl Quota {
            /// What a tenant with these limits may use: its own where it has one, else what others have; never above the
            /// ceiling.
            fn new(own: &TenantLimits, others: &Self, most: &TenantLimits) -> Self {
                Self { $($name: {
                    let value = own.$name.unwrap_or(others.$name);
                    most.$name.map_or(value, |most| value.min(most))
                },)+ }
            }

            /// Every limit, as it is written on the command line.
            pub fn written(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($name), self.$name.to_string())),+]
            }
        }
    };
}

tenant_limits! {
    /// Requests within a second; 0: no limit
    rate: Rate, "--tenant-rate";
    /// Requests that may come at once, before the rate counts
    burst: u64, "--tenant-burst";
    /// Requests that run at a time; 0: no limit but the gateway's
    running: u64, "--tenant-running";
    /// Requests that wait for one of these places
    queued: u64, "--tenant-queued";
    /// Share of the processor that its calls of wasm models get beside other tenants'
    weight: u64, "";
    /// Time for an answer
    deadline: Span, "--deadline";
    /// Bytes of a request's body, also after decompression
    max_body: Size, "--max-body";
    /// Bytes of an answer's tensors
    output: Size, "--guest-output, --native-output";
    /// Memory of one request to a wasm model of the tenant's own; from the next load of the model on
    guest_memory: Size, "--guest-memory";
    /// Models that it has published
    models: u64, "--tenant-models";
    /// Published versions of one model
    versions: u64, "--tenant-versions";
    /// Bytes of all that it has published
    storage: Size, "--tenant-storage";
    /// Memory that its models take while they are loaded; of an ONNX model its file, and what one worker takes then
    loaded: Size, "--tenant-loaded";
    /// Bytes of one upload, all files together
    max_upload: Size, "--max-upload";
    /// Uploads at a time, of which one is compiled
    uploads: u64, "--tenant-uploads";
    /// Changes of versions and settings within an hour, on each gateway
    changes: u64, "--tenant-changes";
}

fn unknown(name: &str) -> String {
    let shown: String = name.chars().take(32).collect();
    let names: Vec<&str> = TenantLimits::ALL.iter().map(|(name, ..)| *name).collect();
    format!("there is no limit {shown:?}: they are {}", names.join(", "))
}

/// The flag that says how high a limit may be.
fn ceiling_flag(name: &str) -> &'static str {
    match name {
        "running" => "max-running",
        "queued" => "max-queued",
        "deadline" => "deadline",
        "max_body" => "max-body",
        "output" => "native-output",
        "guest_memory" => "guest-memory",
        _ => "max-upload",
    }
}

impl TenantLimits {
    /// Reads what a client sends: JSON with these names and no others; null leaves a limit to the gateway.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(body: serde_json::Value) -> Result<Self, String> {
        let serde_json::Value::Object(fields) = body else { return Err("expected a JSON object".into()) };
        let mut limits = Self::default();
        for (name, value) in fields {
            if !Self::ALL.iter().any(|(known, ..)| *known == name) {
                return Err(unknown(&name));
            }
            // One by one, so that a fault can be named.
            let one = serde_json::Value::Object([(name.clone(), value)].into_iter().collect());
            let one: Self = serde_json::from_value(one).map_err(|error| format!("{name}: {error}"))?;
            limits = one.or(limits);
        }
        limits.sound()?;
        Ok(limits)
    }

    /// Checks that none would refuse everything by mistake; none of the quotas of uploads does, 0 is a way to forbid them.
    fn sound(&self) -> Result<(), String> {
        const LEAST_MEMORY: Size = Size(64 << 10);
        if self.deadline.is_some_and(|deadline| deadline.0.is_zero()) {
            return Err("deadline: a time limit of zero would refuse everything".into());
        }
        for (name, size) in [("max_body", self.max_body), ("output", self.output)] {
            if size == Some(Size(0)) {
                return Err(format!("{name}: it has to be above zero"));
            }
        }
        if self.guest_memory.is_some_and(|size| size < LEAST_MEMORY) {
            return Err(format!("guest_memory: it has to be at least {LEAST_MEMORY}"));
        }
        if self.weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            return Err("weight: it has to be 1 to 10000; 100 is everybody's".into());
        }
        if self.burst == Some(0) {
            return Err("burst: it has to be at least 1".into());
        }
        Ok(())
    }

    /// How high a tenant's limits may be; open where only the operator's judgement bounds them.
    fn ceiling(limits: &Limits) -> Self {
        Self {
            running: Some(limits.admit.max_running as u64),
            queued: Some(limits.admit.max_queued as u64),
            deadline: Some(Span(limits.admit.deadline)),
            max_body: Some(limits.decode.max_body_bytes.into()),
            // Of both kinds of models; each keeps its own as well.
            output: Some(limits.sandbox.output_bytes.max(limits.native.output_bytes).into()),
            guest_memory: Some(limits.sandbox.memory_bytes.into()),
            max_upload: Some(Size(limits.upload.max_bytes)),
            ..Self::default()
        }
    }
}

impl Quota {
    /// What a tenant has without limits of its own.
    fn of_anybody(limits: &Limits) -> Self {
        let (calls, upload) = (&limits.calls, &limits.upload);
        Self {
            rate: calls.rate,
            burst: calls.burst,
            running: calls.running,
            queued: calls.queued,
            weight: 100,
            deadline: Span(limits.admit.deadline),
            max_body: limits.decode.max_body_bytes.into(),
            output: limits.sandbox.output_bytes.max(limits.native.output_bytes).into(),
            guest_memory: limits.sandbox.memory_bytes.into(),
            models: upload.max_models,
            versions: upload.max_versions,
            storage: Size(upload.max_storage_bytes),
            loaded: Size(upload.max_loaded_bytes),
            max_upload: Size(upload.max_bytes),
            uploads: upload.per_tenant,
            changes: upload.max_changes,
        }
    }
}

/// What decides the quota of every tenant of a gateway.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    named: Quota,
    /// Of the tenant `default`, who has the gateway for itself where there are no keys.
    default_tenant: Quota,
    most: TenantLimits,
}

impl Rules {
    pub(super) fn new(limits: &Limits) -> Self {
        let named = Quota::of_anybody(limits);
        let default_tenant = Quota { rate: Rate::NONE, running: 0, ..named };
        Self { named, default_tenant, most: TenantLimits::ceiling(limits) }
    }

    pub(super) fn quota(&self, is_default: bool, own: &TenantLimits) -> Quota {
        Quota::new(own, if is_default { &self.default_tenant } else { &self.named }, &self.most)
    }
}

#[cfg(test)]
mod tests;
