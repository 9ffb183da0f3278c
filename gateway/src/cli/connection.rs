//! Which gateway a command talks to, and with which key. The key never stands on the command line, which everybody on
//! the machine can see.

use std::{
    env,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{Url, header::HeaderValue};
use zeroize::Zeroizing;

use super::{
    client::Client,
    profile::{Private, Profile},
};
use crate::{authenticate::ApiKey, config::Span};

const DEFAULT_URL: &str = "http://127.0.0.1:8000";
pub(super) const ADMIN_URL: &str = "http://127.0.0.1:8003";

/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// The gateway [default: http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", env = "AIRLOCK_URL")]
    url: Option<String>,

    #[command(flatten)]
    access: Access,
}

/// How to get into whichever gateway it is. The flags may stand behind a subcommand as well.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(super) struct Access {
    /// A file with the API key, readable by its owner only; or put the key into AIRLOCK_API_KEY
    #[arg(long, value_name = "FILE", env = "AIRLOCK_KEY_FILE", global = true)]
    key_file: Option<PathBuf>,

    /// Trust this certificate authority (PEM) instead of the system's
    #[arg(long, value_name = "FILE", env = "AIRLOCK_CA_CERT", global = true)]
    ca_cert: Option<PathBuf>,

    /// Send the key without TLS to other machines too: whoever is on the way can take it
    #[arg(long, global = true)]
    insecure: bool,

    /// How long an answer may take, as `30s` or `5m` [default: 1m; for push: 15m]
    #[arg(long, value_name = "TIME", global = true)]
    timeout: Option<Span>,

    /// The profile of the configuration file that counts [default: default]
    #[arg(long, value_name = "NAME", env = "AIRLOCK_PROFILE", global = true)]
    profile: Option<String>,

    /// The configuration file with profiles [default: ~/.config/airlock/config.toml]
    #[arg(long, value_name = "FILE", env = "AIRLOCK_CLIENT_CONFIG", global = true)]
    config: Option<PathBuf>,
}

impl Connection {
    /// A client of the gateway. Nothing is sent yet.
    pub(super) fn client(&self, patience: Duration) -> Result<Client> {
        self.access.client(self.url.as_deref(), DEFAULT_URL, patience)
    }

    /// The same for the admin port.
    pub(super) fn admin_client(&self, patience: Duration) -> Result<Client> {
        self.access.client(self.url.as_deref(), ADMIN_URL, patience)
    }

    /// What to add to a command so that it goes to the same gateway as this one.
    pub(super) fn repeated(&self) -> String {
        let said = self.url.as_ref().filter(|url| env::var("AIRLOCK_URL").ok().as_ref() != Some(url));
        said.map(|url| format!(" --url {}", super::say::quoted(url))).unwrap_or_default()
    }
}

impl Access {
    /// A client of the gateway at `url`, else of the profile's, else of the default one.
    pub(super) fn client(&self, url: Option<&str>, default: &str, patience: Duration) -> Result<Client> {
        let profile = Profile::find(self.config.as_deref(), self.profile.as_deref())?;
        let from_profile = profile.url.as_deref().unwrap_or(default);
        let url = parse(url.unwrap_or(from_profile))?;
        // A profile's key is for the profile's gateway; another one must not get to see it.
        let same = url == parse(from_profile)?;
        let key = self.key(same.then_some(&profile))?;
        let loopback = is_loopback(&url);
        if key.is_some() && url.scheme() == "http" && !loopback && !self.insecure {
            bail!(
                "the key is not sent to {url} without TLS, where others can read it: use https, or --insecure if the way there is safe"
            );
        }
        // Without one, rustls would not know how to encrypt; one that is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("airlock/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(self.timeout.map_or(patience, |timeout| timeout.0))
            // A redirect would take the key, or an artifact, to where nobody meant to send it.
            .redirect(reqwest::redirect::Policy::none());
        if loopback {
            let local = [([127, 0, 0, 1], 0).into(), (std::net::Ipv6Addr::LOCALHOST, 0).into()];
            http = http.no_proxy().resolve_to_addrs("localhost", &local);
        }
        http = match self.ca_cert.as_ref().or(profile.ca_cert.as_ref()) {
            Some(path) => {
                let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let certificates = reqwest::Certificate::from_pem_bundle(&pem);
                let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
                let certificates = certificates
                    .with_context(|| format!("{} holds no certificate in PEM", path.display()))?;
                http.tls_certs_only(certificates)
            }
            // The system's certificates are not there on every machine, and not needed here.
            None if url.scheme() == "http" => http.tls_certs_only([]),
            None => http,
        };
        let http = http.build().context("TLS cannot be set up; does this machine have CA certificates?")?;
        Ok(Client::new(http, &url, key.as_ref().map(bearer).transpose()?))
    }

    fn key(&self, profile: Option<&Profile>) -> Result<Option<ApiKey>> {
        if let Some(path) = &self.key_file {
            return from_file(path).map(Some);
        }
        if let Ok(text) = env::var("AIRLOCK_API_KEY").map(Zeroizing::new)
            && !text.is_empty()
        {
            return text.trim().parse().map(Some).context("AIRLOCK_API_KEY");
        }
        let Some(profile) = profile else { return Ok(None) };
        match (&profile.key, &profile.key_file) {
            (Some(_), Some(_)) => bail!("the profile has both key and key_file: one of them is enough"),
            (Some(text), None) => text.0.trim().parse().map(Some).context("the profile's key"),
            (None, Some(path)) => from_file(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn from_file(path: &Path) -> Result<ApiKey> {
    let shown = path.display();
    let private = Private::read(path).with_context(|| format!("cannot read the key file {shown}"))?;
    if private.exposed {
        bail!("the key file {shown} can be read by others: chmod 600 {shown}");
    }
    private.text.trim().parse().with_context(|| format!("the key file {shown}"))
}

fn bearer(key: &ApiKey) -> Result<HeaderValue> {
    let text = Zeroizing::new(format!("Bearer {}", *key.reveal()));
    let mut value = HeaderValue::from_str(&text).context("the key is no header")?;
    value.set_sensitive(true);
    Ok(value)
}

fn parse(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    let Some(url) = url else {
        bail!("{text:?} is not a gateway's URL: write https://HOST or http://127.0.0.1:8000");
    };
    // Whatever is in front of an @ is a secret in a place that is logged; it is not shown here either.
    if !url.username().is_empty() || url.password().is_some() {
        bail!("the URL holds a user name or password: a gateway takes API keys, see --key-file");
    }
    if url.query().is_some() || url.fragment().is_some() {
        bail!("{text:?} has something behind ? or #: a gateway's URL ends with its path");
    }
    Ok(url)
}

/// Whether what is sent there stays on this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_stays_on_this_machine() {
        let local = |text: &str| is_loopback(&parse(text).expect("a URL"));
        for text in ["http://127.0.0.1:8000", "http://127.9.9.9", "http://[::1]:1", "http://localhost/x"] {
            assert!(local(text), "{text}");
        }
        for text in [
            "http://0.0.0.0",
            "http://10.0.0.1",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://[::2]",
            "http://gateway",
        ] {
            assert!(!local(text), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_urls_of_a_gateway() {
        for text in
            ["", "localhost:8000", "127.0.0.1:8000", "ftp://a", "http://", "http://a?x", "http://a#x", "/v2"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        let error = parse("http://user:hidden@a").expect_err("a password").to_string();
        assert!(!error.contains("hidden"), "{error}");
    }
}
