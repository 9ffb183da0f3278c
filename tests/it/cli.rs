//! The tenants' commands, run as they are against gateways in this process.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use airlock::authenticate::{Keyring, Scope, mint, now};
use airlock_tests::{
    gateway::{Gateway, Repository, binary},
    guest,
    tls::{Certificate, files},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder to work in, and the gateway that commands go to.
struct Desk {
    folder: TempDir,
    url: String,
    gateway: Option<Gateway>,
}

impl Desk {
    /// With a gateway that takes uploads and shares the model `shared`.
    async fn with_gateway() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = folder.path().join("store").to_str().expect("UTF-8").parse().expect("a location");
        let repository = Repository::default().with("shared", "1", "model.wasm", guest::good());
        let gateway = Gateway::serve_with(repository, |settings| settings.store = Some(store)).await;
        Self { folder, url: format!("http://{}", gateway.address()), gateway: Some(gateway) }
    }

    fn without_gateway(url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, url: url.to_owned(), gateway: None }
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("this desk has a gateway")
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        fs::write(&path, bytes).expect("a writable folder");
        path
    }

    /// A file that only its owner can read.
    fn private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        mode(&path, 0o600);
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("AIRLOCK_URL", &self.url)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    fn good(&self, arguments: &[&str]) -> String {
        stdout(&self.run(arguments))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.good(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// What stderr says of a command that has to end with that exit code.
    fn bad(&self, code: i32, arguments: &[&str]) -> String {
        stderr(code, &self.run(arguments))
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text").trim_end().to_owned()
}

fn stderr(code: i32, output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty() && !error.contains("panicked"), "{error}");
    error
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// A key of `acme` with these scopes, in force at once.
fn key(gateway: &Gateway, scopes: &[Scope]) -> String {
    let authenticator = gateway.authenticator();
    let (key, record) =
        mint(authenticator.pepper(), scopes.iter().copied().collect(), now()).expect("random bytes");
    authenticator.install(Keyring::new([("acme".parse().expect("a name"), record)]));
    key.reveal().to_string()
}

/// A `.npy` file, as NumPy writes it.
fn npy(descr: &str, fortran: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let length = u16::try_from(header.len()).expect("short").to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), elements].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_file_to_an_answer() {
    let desk = Desk::with_gateway().await;
    desk.file("echo.wasm", guest::good());
    assert_eq!(desk.json(&["list"]).as_array().map(Vec::len), Some(1), "the shared model");

    let output = desk.run(&["push", "echo.wasm"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("echo: this becomes version 1"), "{told}");
    let text = stdout(&output);
    for part in
        ["echo version 1 is published", "sha256:", "kind    wasm", "INPUT0 FP32 [-1]", "OUTPUT0 FP32 [-1]"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }

    // What it says to try is a command that works.
    let example = text.lines().last().expect("an example").trim();
    assert_eq!(example, "airlock infer echo --input 'INPUT0=[0]'");
    let shell = format!("exec {}", example.replacen("airlock", binary().to_str().expect("UTF-8"), 1));
    let mut command = Command::new("/bin/sh");
    let tried = command.args(["-c", &shell]).env("AIRLOCK_URL", &desk.url).output().expect("a shell");
    assert_eq!(stdout(&tried), "OUTPUT0 FP32 [1]\n  0.0");

    let echoed = desk.json(&["infer", "echo", "--input", "INPUT0=[0.1,-2,3e9]"]);
    let outputs = json!([{ "name": "OUTPUT0", "datatype": "FP32", "shape": [3], "data": [0.1, -2.0, 3e9] }]);
    assert_eq!((&echoed["model_name"], &echoed["outputs"]), (&json!("echo"), &outputs), "{echoed}");
    desk.file("x.npy", npy("<f4", "False", "(2,)", &floats(&[1.5, f32::INFINITY])));
    assert_eq!(
        desk.good(&["infer", "echo", "--version", "1", "-i", "INPUT0=@x.npy"]),
        "OUTPUT0 FP32 [2]\n  1.5  inf"
    );
    desk.file("x.json", "[4, 5]");
    assert_eq!(desk.good(&["infer", "shared", "-i", "INPUT0=@x.json"]), "OUTPUT0 FP32 [2]\n  4.0  5.0");

    let usage = desk.json(&["usage"]);
    assert_eq!(usage["models"][0]["outcomes"], json!({ "ok": 3 }), "{usage}");
    let text = desk.good(&["usage"]);
    assert!(text.starts_with("tenant default, since ") && text.contains("\ntotal"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_never_changes() {
    let desk = Desk::with_gateway().await;
    desk.file("echo.wasm", guest::good());
    desk.file("other.wasm", guest::module(guest::COUNTER).expect("a fixture"));
    let push = |file: &str| desk.run(&["push", file, "--name", "m", "--version", "7"]);
    assert!(stdout(&push("echo.wasm")).contains("airlock infer m --version 7 --input"));
    let again = stdout(&push("echo.wasm"));
    assert!(again.starts_with("m version 7 was there already, with the same content"), "{again}");
    let error = stderr(1, &push("other.wasm"));
    assert!(error.contains("use another version [version_exists]"), "{error}");
    // Without a version it is the next number, and both are there.
    let pushed = desk.json(&["push", "other.wasm", "--name", "m"]);
    assert_eq!((&pushed["version"], &pushed["new"]), (&json!("8"), &json!(true)), "{pushed}");
    // Too large is said by the gateway before it reads the file, and heard although the file is still being sent.
    let large = desk.file("large.wasm", "");
    let file = fs::File::options().write(true).open(large).expect("a file");
    file.set_len(300 << 20).expect("a file with holes");
    assert!(desk.bad(1, &["push", "large.wasm"]).contains("[too_large]"));
    desk.file("bad.wasm", "no module");
    let error = desk.bad(1, &["push", "bad.wasm"]);
    assert!(error.contains("bad: this becomes version 1\n") && error.contains("airlock: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_one_version_with_its_files_and_configuration() {
    let desk = Desk::with_gateway().await;
    desk.file("weights/model.wasm", guest::module(guest::LOADED).expect("a fixture"));
    desk.file("weights/a.bin", floats(&[1.0, 2.5]));
    desk.file("weights/model.toml", "max_batch_size = 4\n");
    let pushed = desk.json(&["push", "weights"]);
    assert_eq!(
        (&pushed["name"], &pushed["files"][0]["name"]),
        (&json!("weights"), &json!("a.bin")),
        "{pushed}"
    );
    assert_eq!(
        desk.good(&["infer", "weights", "-i", "INPUT0=0"]),
        "OUTPUT0 FP32 [2]\n  1.0  2.5",
        "the file reached `load`"
    );
    let error = desk.bad(1, &["infer", "weights", "-i", "INPUT0=[1,2,3,4,5]"]);
    assert!(error.contains("[bad_request]"), "the configuration counts: {error}");
    assert!(desk.good(&["show", "weights"]).contains("file   a.bin 8 B"));
    desk.file("weights/sub/x", "");
    assert!(desk.bad(1, &["push", "weights"]).contains("is no file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_settings_and_removal() {
    let desk = Desk::with_gateway().await;
    desk.file("m.wasm", guest::good());
    for version in ["1", "2"] {
        desk.good(&["push", "m.wasm", "--version", version]);
    }
    let list = desk.good(&["list"]);
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["MODEL", "VERSION", "OWNER", "STATE", "KIND", "SIZE"]);
    assert_eq!(rows[2][..5], ["m", "2", "you", "READY", "wasm"]);
    assert_eq!(rows[3], ["shared", "1", "shared", "READY", "-", "-"]);
    assert_eq!(desk.json(&["list"])[1]["digest"], desk.json(&["show", "m"])["versions"][1]["digest"]);

    assert!(desk.good(&["default", "m", "1"]).contains("version 1 answers"));
    assert_eq!(desk.json(&["infer", "m", "-i", "INPUT0=1"])["model_version"], "1");
    assert!(desk.good(&["alias", "m", "canary", "1=90", "2=10"]).contains("version 2 (10 of 100)"));
    assert_eq!(desk.json(&["alias", "m", "stable", "2"])["aliases"]["stable"], json!({ "2": 1 }));
    assert_eq!(desk.json(&["infer", "m", "--version", "stable", "-i", "INPUT0=1"])["model_version"], "2");
    let settings = &desk.json(&["show", "m"])["settings"];
    assert_eq!(settings["aliases"]["canary"], json!({ "1": 90, "2": 10 }), "one change keeps the other");
    assert_eq!(settings["default_version"], "1");
    assert!(desk.good(&["show", "m"]).contains("default_version: 1"));
    // Several people at the same moment, and none undoes another's change.
    let names = ["a", "b", "c", "d"];
    let mut at_once: Vec<_> = names
        .iter()
        .map(|name| {
            desk.command(&["alias", "m", name, "1"]).stdout(Stdio::null()).spawn().expect("it starts")
        })
        .collect();
    assert!(at_once.iter_mut().all(|child| child.wait().expect("it ends").success()));
    let settings = &desk.json(&["show", "m"])["settings"];
    assert!(names.iter().all(|name| settings["aliases"][name] == json!({ "1": 1 })), "{settings}");
    desk.good(&["alias", "m", "canary", "--remove"]);
    let settings = desk.json(&["default", "m", "--highest"]);
    assert_eq!((settings.get("default_version"), settings["aliases"].get("canary")), (None, None));
    assert!(desk.bad(1, &["default", "m", "9"]).contains("version 9 of 'm' is not published"));
    for usage in [
        &["default", "m"][..],
        &["alias", "m", "a"],
        &["alias", "m", "a", "1=x"],
        &["alias", "m", "a", "1", "--remove"],
    ] {
        desk.bad(2, usage);
    }

    assert_eq!(desk.good(&["remove", "m", "--version", "2"]), "m version 2 is removed");
    assert_eq!(desk.json(&["remove", "m"]), json!({ "name": "m", "removed": true }));
    assert!(desk.bad(1, &["remove", "m"]).contains("[model_not_found]"));
    assert!(desk.bad(1, &["show", "m"]).contains("[model_not_found]"));
    assert!(desk.good(&["show", "shared"]).contains("shared by the operator"));
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_cannot_be_sent_are_refused_before_anything_is() {
    let desk = Desk::with_gateway().await;
    let element = floats(&[1.0]);
    let good = npy("<f4", "False", "(1,)", &element);
    let mut huge = good.clone();
    huge[6] = 2;
    huge[8..12].fill(255);
    for (bytes, part) in [
        (good[..good.len() - 1].to_vec(), "takes 4 bytes, got 3"),
        (good[..20].to_vec(), "cut short"),
        (huge, "header of 4294967295 bytes"),
        (npy("<f4", "True", "(1,)", &element), "Fortran order"),
        (npy(">f4", "False", "(1,)", &element), "big-endian"),
        (npy("<f8", "False", "(1,)", &[0; 8]), "holds FP64, the input 'INPUT0' takes FP32"),
        (npy("|O", "False", "(1,)", &element), "no equivalent"),
        (npy("<f4", "False", "(4611686018427387904, 4)", &element), "overflows"),
        (b"text".to_vec(), "does not begin as a .npy file does"),
    ] {
        desk.file("x.npy", bytes);
        let error = desk.bad(1, &["infer", "shared", "--input", "INPUT0=@x.npy"]);
        assert!(error.contains(part), "{part} in {error}");
    }
    for (input, part) in [
        ("INPUT0=[1,", "is not JSON"),
        ("INPUT0=[[1],[2,3]]", "equally long"),
        ("INPUT0=[[1]]", "nested 2 deep"),
        ("INPUT1=[1]", "has no input 'INPUT1'; it has 'INPUT0'"),
        ("INPUT0=@missing.npy", "cannot read missing.npy"),
        ("INPUT0=@store", "cannot read store"),
    ] {
        let error = desk.bad(1, &["infer", "shared", "--input", input]);
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(desk.json(&["usage"])["total"]["calls"], 0, "nothing was sent");
    desk.bad(2, &["infer", "shared", "--input", "INPUT0"]);
    desk.bad(2, &["infer", "../shared"]);
    assert!(desk.bad(1, &["infer", "shared"]).contains("INPUT0"), "the gateway names what is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_places_that_only_their_owner_sees() {
    let desk = Desk::with_gateway().await;
    let key = key(desk.gateway(), &[Scope::Infer, Scope::Repository]);
    let error = desk.bad(1, &["list"]);
    assert!(error.contains("no key was sent: set AIRLOCK_API_KEY"), "{error}");
    desk.bad(2, &["list", "--key", &key]);

    let with =
        |name: &str, value: &str| desk.command(&["list"]).env(name, value).output().expect("it starts");
    assert!(stdout(&with("AIRLOCK_API_KEY", &key)).contains("shared"));
    let error = stderr(1, &with("AIRLOCK_API_KEY", &key[..92]));
    assert!(error.contains("AIRLOCK_API_KEY") && !error.contains(&key[30..60]), "{error}");

    let file = desk.private("key", &format!("{key}\n"));
    assert!(desk.good(&["list", "--key-file", "key"]).contains("shared"));
    mode(&file, 0o640);
    let error = desk.bad(1, &["list", "--key-file", "key"]);
    assert!(error.contains("can be read by others: chmod 600"), "{error}");
    mode(&file, 0o600);

    // A configuration file, where XDG says; its paths are relative to itself.
    let config =
        desk.private(".config/airlock/config.toml", &format!("[profile.default]\nkey = \"{key}\"\n"));
    let error = desk.bad(1, &["list"]);
    assert!(error.contains("no key was sent"), "a profile's key goes to the profile's gateway only: {error}");
    let profile = format!("[profile.default]\nurl = \"{}\"\n", desk.url);
    fs::write(&config, format!("{profile}key = \"{key}\"\n")).expect("a writable file");
    assert!(desk.good(&["list"]).contains("shared"));
    let unsaid = desk.command(&["list"]).env_remove("AIRLOCK_URL").output().expect("it starts");
    assert!(stdout(&unsaid).contains("shared"), "the URL comes from there too");
    mode(&config, 0o644);
    let error = desk.bad(1, &["list"]);
    assert!(error.contains("holds a key and can be read by others"), "{error}");
    fs::write(&config, format!("{profile}key_file = \"../../key\"\n")).expect("a writable file");
    assert!(desk.good(&["list"]).contains("shared"), "without a key in it, anybody may read it");
    fs::write(&config, format!("{profile}kee = \"{key}\"\n")).expect("a writable file");
    let error = desk.bad(1, &["list"]);
    assert!(error.contains("line 3: unknown field `kee`") && !error.contains(&key[30..60]), "{error}");
    assert!(desk.bad(1, &["list", "--config", "none.toml"]).contains("cannot read none.toml"));
    fs::write(&config, &profile).expect("a writable file");
    assert!(desk.bad(1, &["list", "--profile", "prod"]).contains("has no [profile.prod]"));
}

#[test]
fn a_key_is_not_sent_where_others_can_read_it() {
    // An address that is nobody's: were the key sent, the command would wait.
    let desk = Desk::without_gateway("http://192.0.2.1:8000");
    let key = format!("ak_0123456789abcdef_{}", "ab".repeat(32));
    let sum = airlock::digest::Digest::of(key.as_bytes()).hex();
    desk.private("key", &format!("{key}_{}", &sum[..8]));
    let error = desk.bad(1, &["list", "--key-file", "key"]);
    assert!(error.contains("is not sent to http://192.0.2.1:8000/ without TLS"), "{error}");
    let error = desk.bad(3, &["list", "--key-file", "key", "--insecure", "--timeout", "50ms"]);
    assert!(!error.contains("without TLS"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_gateway_has_to_prove_who_it_is() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let mut desk = Desk::without_gateway("");
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let (ours, theirs) = (files(&desk.folder), files(&elsewhere));
    certificate.write(&ours);
    other.write(&theirs);
    let repository = Repository::default().with("shared", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.tls_cert = Some(ours.certificate.clone());
        settings.tls_key = Some(ours.key.clone());
    })
    .await;
    let key = key(&gateway, &[Scope::Infer, Scope::Repository]);
    desk.private("key", &key);
    desk.url = format!("https://localhost:{}", gateway.address().port());
    let list = |ca: &Path| desk.run(&["list", "--key-file", "key", "--ca-cert", ca.to_str().expect("UTF-8")]);
    assert!(stdout(&list(&ours.certificate)).contains("shared"));
    let error = stderr(3, &list(&theirs.certificate));
    assert!(error.contains("certificate"), "{error}");
    desk.url = format!("http://localhost:{}", gateway.address().port());
    desk.bad(3, &["list", "--key-file", "key"]);
}

#[test]
fn who_cannot_be_reached_is_said() {
    // The port is taken, so that no other test gets it, but nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().expect("a socket");
    taken.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let url = format!("http://{}", taken.local_addr().expect("an address"));
    let desk = Desk::without_gateway(&url);
    desk.file("a.wasm", guest::good());
    for command in [
        &["list"][..],
        &["show", "m"],
        &["remove", "m"],
        &["usage"],
        &["default", "m", "1"],
        &["alias", "m", "a", "1"],
        &["push", "a.wasm"],
        &["push", "a.wasm", "--version", "1"],
        &["infer", "m"],
    ] {
        let error = desk.bad(3, command);
        assert!(error.contains(&format!("nothing answers at {url}: is the gateway running?")), "{error}");
    }

    // Somebody listens, and never answers.
    let silent = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let desk = Desk::without_gateway(&format!(
        "http://localhost:{}/",
        silent.local_addr().expect("an address").port()
    ));
    let error = desk.bad(3, &["list", "--timeout", "200ms"]);
    assert!(error.contains("did not answer in time"), "{error}");
    for url in ["127.0.0.1:8000", "ftp://a", "http://user:hidden@a", ""] {
        let error = desk.bad(1, &["list", "--url", url]);
        assert!(!error.contains("hidden"), "{error}");
    }
    desk.file("ca.pem", "no certificate");
    assert!(desk.bad(1, &["list", "--ca-cert", "ca.pem"]).contains("holds no certificate in PEM"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_documentation_shows_works() {
    let text = include_str!("../../docs/cli.md");
    let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let script: String = blocks.collect();
    let count = script.lines().filter(|line| line.starts_with("airlock ")).count();
    assert_eq!(script.lines().filter(|line| !line.is_empty()).count(), count, "all of it are commands");
    assert!(count > 15, "the examples were not found");
    let desk = Desk::with_gateway().await;
    desk.file("echo.wasm", guest::good());
    desk.file("scaler/model.wasm", guest::good());
    desk.file("scaler/model.toml", "version_policy = \"latest\"\n");
    desk.file("x.npy", npy("<f4", "False", "(1,)", &floats(&[1.0])));
    let path = binary().parent().expect("a folder").display().to_string();
    let mut command = Command::new("/bin/sh");
    let command = command.args(["-exc", &script]).current_dir(desk.folder.path()).env_clear();
    let output = command.env("PATH", path).env("AIRLOCK_URL", &desk.url).output().expect("a shell");
    assert!(stdout(&output).contains("version 1 answers where none is named"));
    let commands = desk.good(&["--help"]);
    let commands = commands.split("Commands:").nth(1).and_then(|rest| rest.split("Options:").next());
    let names = commands.expect("a list").lines().filter_map(|line| line.split_whitespace().next());
    for name in names {
        assert!(text.contains(&format!("airlock {name}")) || text.contains(&format!("`{name}`")), "{name}");
    }
}

/// A gateway that breaks off the first upload, and one that does so every time.
#[test]
fn an_upload_that_breaks_off_is_sent_once_more() {
    use std::io::{Read, Write};
    for (broken, code) in [(1, 0), (2, 3)] {
        let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let desk = Desk::without_gateway(&format!("http://{}", listener.local_addr().expect("an address")));
        desk.file("a.wasm", b"bytes");
        let gateway = std::thread::spawn(move || {
            for attempt in 0..2 {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut request = Vec::new();
                while !request.ends_with(b"bytes") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("a request");
                    request.push(byte[0]);
                }
                let text = String::from_utf8(request).expect("text").to_lowercase();
                assert!(text.starts_with("put /v2/repository/models/a/versions/1 "), "{text}");
                assert!(text.contains("content-length: 5\r\n") && text.contains("content-digest: sha-256=:"));
                assert!(!text.contains("transfer-encoding"), "{text}");
                if attempt >= broken {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    stream.write_all(answer).expect("an answer");
                }
            }
        });
        let output = desk.run(&["push", "a.wasm", "--version", "1"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains("broke off") && told.contains("trying once more"), "{told}");
        gateway.join().expect("both attempts came");
    }
}

#[test]
fn completions_know_the_commands() {
    let desk = Desk::without_gateway("http://127.0.0.1:1");
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.good(&["completions", shell]);
        assert!(script.contains("push") && script.contains("airlock"), "{shell}");
    }
    desk.bad(2, &["completions", "tcsh"]);
    assert!(desk.good(&["--help"]).contains("Exit codes"));
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let desk = Desk::without_gateway("http://127.0.0.1:1");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = desk.command(&["completions", "bash"]).stdout(writer).output().expect("it starts");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
