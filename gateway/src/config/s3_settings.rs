//! How to reach a bucket; the same for serving and for the commands on its store. Credentials come from the environment
//! (`AWS_ACCESS_KEY_ID`, …) or from the machine, never from a flag.

use clap::Args;
use serde::Deserialize;

use crate::repository::artifacts::S3Settings;

/// What is to be known of an S3 store besides its name.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[command(next_help_heading = "S3")]
#[serde(default, deny_unknown_fields)]
pub struct S3Options {
    /// Server that speaks S3, if it is not AWS: https://HOST:PORT
    #[arg(long, value_name = "URL", env = "AIRLOCK_S3_ENDPOINT", global = true)]
    #[serde(rename = "endpoint")]
    pub s3_endpoint: Option<String>,

    /// Region of the bucket
    #[arg(long, value_name = "NAME", env = "AIRLOCK_S3_REGION", global = true)]
    #[serde(rename = "region")]
    pub s3_region: Option<String>,

    /// Let the endpoint be http://: what is stored can then be read on the way, but not altered
    #[arg(long, value_name = "BOOL", env = "AIRLOCK_S3_ALLOW_HTTP", global = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(rename = "allow_http")]
    pub s3_allow_http: Option<bool>,
}

impl S3Options {
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            s3_endpoint: self.s3_endpoint.or(other.s3_endpoint),
            s3_region: self.s3_region.or(other.s3_region),
            s3_allow_http: self.s3_allow_http.or(other.s3_allow_http),
        }
    }
}

impl From<S3Options> for S3Settings {
    fn from(options: S3Options) -> Self {
        Self {
            endpoint: options.s3_endpoint,
            region: options.s3_region,
            allow_http: options.s3_allow_http.unwrap_or(false),
            credentials: None,
        }
    }
}
