use clap::{CommandFactory, Parser};

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

fn flags(flags: &[&str]) -> Settings {
    Cli::try_parse_from(std::iter::once("serve").chain(flags.iter().copied())).expect("valid flags").settings
}

fn file(text: &str) -> Result<Settings, toml::de::Error> {
    toml::from_str(text)
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file =
        file("http = '127.0.0.1:9000'\nmodel_repository = 'm'\n[limits]\ndeadline = '5s'\nmax_rank = 4")
            .expect("a valid file");
    let config = Config::try_from(flags(&["--deadline", "1s"]).or(file)).expect("a valid configuration");
    assert_eq!(config.http.port(), 9000);
    assert_eq!(config.limits.admit.deadline, Duration::from_secs(1));
    assert_eq!(config.limits.decode.max_rank, 4);
    assert_eq!(config.limits.decode.max_inputs, Limits::default().decode.max_inputs);
}

#[test]
fn a_flag_that_names_what_to_serve_replaces_the_file_s_choice() {
    let file = file("file = 'a.wasm'").expect("a valid file");
    let merged = flags(&["--model-repository", "m"]).or(file);
    assert_eq!((merged.file, merged.model_repository), (None, Some("m".into())));
}

#[test]
fn a_file_wins_over_a_folder() {
    let config =
        Config::try_from(flags(&["a.wasm", "--model-repository", "m"])).expect("a valid configuration");
    assert!(matches!(config.source, crate::repository::RepositorySource::File(_)));
}

#[test]
fn unknown_keys_are_refused_by_name() {
    for (text, key) in
        [("htpp = 'x'", "htpp"), ("[limits]\nmemory = '1MiB'", "memory"), ("[listen]", "listen")]
    {
        let error = file(text).expect_err(text).to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_with_the_flag_s_name() {
    let refused = |arguments: &[&str]| Config::try_from(flags(arguments)).expect_err("a refusal").to_string();
    assert!(refused(&[]).contains("nothing to serve"));
    assert!(refused(&["a.wasm", "--deadline", "0s"]).starts_with("--deadline: "));
    for (flag, value) in [
        ("--max-running", "0"),
        ("--max-running", "9999999999999999999"),
        ("--guest-memory", "0"),
        ("--max-connections", "0"),
        ("--guest-instances", "0"),
        ("--native-threads", "100000"),
        ("--max-body", "2GiB"),
        ("--worker-memory", "1MiB"),
        ("--worker-file", "0"),
        ("--worker-cpu", "0s"),
        ("--workers", "100000"),
        ("--memory-no-calls", "101"),
    ] {
        assert!(refused(&["a.wasm", flag, value]).starts_with(&format!("{flag}: ")), "{flag}");
    }
    assert!(refused(&["a.wasm", "--load-model", "a"]).contains("--model-control-mode explicit"));
    assert!(Cli::try_parse_from(["serve", "a.wasm", "--deadline", "soon"]).is_err());
}

#[test]
fn without_keys_only_loopback_is_listened_on_unless_told() {
    let error = Config::try_from(flags(&["a.wasm", "--http", "0.0.0.0:8000"])).expect_err("a refusal");
    assert!(matches!(error, ConfigError::NotLoopback(_)));
    assert!(Config::try_from(flags(&["a.wasm", "--http", "0.0.0.0:8000", "--insecure"])).is_ok());
    assert!(Config::try_from(flags(&["a.wasm", "--http", "[::1]:8000"])).is_ok());
}

#[test]
fn the_metrics_port_is_on_loopback_and_can_be_switched_off() {
    let port = |settings: Settings| Config::try_from(settings).map(|config| config.metrics.address());
    let at = |text: &str| Some(text.parse::<SocketAddr>().expect("an address"));
    assert_eq!(port(flags(&["a.wasm"])).expect("valid"), at("127.0.0.1:8002"));
    assert_eq!(port(flags(&["a.wasm", "--metrics", "off"])).expect("valid"), None);
    assert_eq!(port(flags(&["a.wasm", "--metrics", "[::1]:1"])).expect("valid"), at("[::1]:1"));
    let file = |text: &str| file(&format!("file = 'a.wasm'\nmetrics = {text}"));
    assert_eq!(port(file("'off'").expect("valid")).expect("valid"), None);
    assert!(file("'8002'").expect_err("no address").to_string().contains("127.0.0.1:8002, or off"));
    let open = flags(&["a.wasm", "--metrics", "0.0.0.0:8002"]);
    assert!(matches!(port(open), Err(ConfigError::NotLoopback(_))));
}

#[test]
fn help_tells_the_real_default_of_every_limit() {
    let command = Cli::command();
    for (name, default) in LimitSettings::defaults() {
        let argument = command.get_arguments().find(|argument| argument.get_id() == name).expect(name);
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let told = help.rsplit_once("[default: ").and_then(|(_, told)| told.strip_suffix(']')).expect(name);
        let told = match argument.get_value_names().map(|names| names[0].as_str()) {
            Some("BYTES") => told.parse::<ByteSize>().expect(name).as_u64().to_string(),
            Some("TIME") => format!("{:?}", told.parse::<Span>().expect(name).0),
            _ => told.to_owned(),
        };
        assert_eq!(told, default, "{name}");
    }
}

#[test]
fn every_limit_has_an_environment_variable_and_a_key_of_its_name() {
    let command = Cli::command();
    for (name, _) in LimitSettings::defaults() {
        let argument = command.get_arguments().find(|argument| argument.get_id() == name).expect(name);
        let variable = argument.get_env().and_then(std::ffi::OsStr::to_str).expect(name);
        assert_eq!(variable, format!("AIRLOCK_{}", name.to_uppercase()));
        let error = file(&format!("[limits]\n{name} = []")).expect_err(name).to_string();
        assert!(!error.contains("unknown field"), "{error}");
    }
}
