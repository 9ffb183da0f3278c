//! Programs that are no worker: nothing that they say is believed, and nothing of them is left.

use std::{fs, path::Path, time::Duration};

use airlock::{
    execute::{LoadError, Step},
    limits::{SandboxLimits, WorkerLimits},
};
use airlock_tests::{guest, process::script};
use tempfile::TempDir;

use super::Fixture;

fn refused(text: &str, limits: WorkerLimits) -> LoadError {
    let folder = TempDir::new().expect("a temporary folder");
    let fixture = Fixture::new(script(folder.path(), text), limits);
    fixture.check(&SandboxLimits::default(), guest::good()).expect_err("a script is no worker")
}

fn run(text: &str, limits: WorkerLimits) -> (Step, String) {
    let error = refused(text, limits);
    (error.step, error.reason)
}

const STEP: &str = r#"echo '{"step":"compile"}'"#;
const REFUSED: &str = r#"echo '{"refused":{"step":"check","reason":"no"}}'"#;
const DONE: &str = r#"echo '{"done":{"report":{"format":"component","signature":{"inputs":[],"outputs":[]},"imports":[],"artifact_bytes":1,"file_bytes":0,"compiled_bytes":4,"steps":[]},"code":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}'"#;

#[test]
fn garbage_is_not_believed() {
    let cases = [
        "echo hello".to_owned(),
        "yes".to_owned(),
        // No line ever ends.
        "tr '\\0' x < /dev/zero".to_owned(),
        r#"printf '{"done":'"#.to_owned(),
        r#"echo '{"step":"dance"}'"#.to_owned(),
        r#"echo '{"done":{"report":{},"code":null}}'"#.to_owned(),
        r#"echo '{"done":1,"refused":2}'"#.to_owned(),
        "printf '\\377\\n'".to_owned(),
        format!("{REFUSED}\n{DONE}"),
        format!("{DONE}\necho and more"),
    ];
    for text in cases {
        let (step, reason) = run(&format!("{STEP}\n{text}"), WorkerLimits::default());
        assert_eq!(step, Step::Compile, "{text}");
        assert!(reason.contains("makes no sense"), "{text}: {reason}");
    }
}

#[test]
fn an_answer_needs_a_good_end_and_the_code_that_it_announces() {
    let limits = WorkerLimits::default;
    let (_, reason) = run("exit 0", limits());
    assert!(reason.contains("exit code 0 and without an answer"), "{reason}");
    let (_, reason) = run(&format!("{DONE}\nexit 3"), limits());
    assert!(reason.contains("exit code 3"), "{reason}");
    let (_, reason) = run("exit 101", limits());
    assert!(reason.contains("by a panic"), "{reason}");
    let (_, reason) = run("kill -SEGV $$", limits());
    assert!(reason.contains("by signal 11"), "{reason}");
    let (_, reason) = run("ulimit -S -t 1; while :; do :; done", limits());
    assert!(reason.contains("processor time") && reason.contains("--worker-cpu"), "{reason}");
    let (_, reason) = run("echo memory allocation of 9 bytes failed >&2; kill -ABRT $$", limits());
    assert!(reason.contains("--worker-memory"), "{reason}");

    // `abc` is what the digest in DONE is of.
    for (code, part) in [
        ("", "cannot be read"),
        ("printf xyz > code", "not what the worker announced"),
        ("ln -s /etc/passwd code", "cannot be read"),
        ("mkfifo code", "not a regular file"),
        ("mkdir code", "not a regular file"),
        ("head -c 2000000 /dev/zero > code", "larger than 1048576 bytes"),
    ] {
        let limits = WorkerLimits { file_bytes: 1 << 20, ..limits() };
        let (step, reason) = run(&format!("{code}\n{DONE}"), limits);
        assert_eq!(step, Step::Compile, "{code}");
        assert!(reason.contains(part), "{code}: {reason}");
    }
    let folder = TempDir::new().expect("a temporary folder");
    let good = script(folder.path(), &format!("printf abc > code\n{DONE}"));
    let report = Fixture::new(good, limits()).check(&SandboxLimits::default(), guest::good());
    assert_eq!(report.expect("the form of a good answer").artifact_bytes, 1);
}

#[test]
fn a_worker_that_never_ends_is_killed_with_what_it_started() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name| folder.path().join(name);
    let text = format!(
        "{STEP}\nsleep 1000 &\necho $! > {}\necho $$ > {}\nexec sleep 1000",
        path("grandchild").display(),
        path("child").display()
    );
    let limits = WorkerLimits { time: Duration::from_secs(1), ..WorkerLimits::default() };
    let (step, reason) = run(&text, limits);
    assert_eq!(step, Step::Compile);
    assert!(reason.contains("longer than the 1s") && reason.contains("--worker-time"), "{reason}");
    let stat = |name| {
        let number = fs::read_to_string(path(name)).expect("it was started");
        fs::read_to_string(Path::new("/proc").join(number.trim()).join("stat")).ok()
    };
    assert_eq!(stat("child"), None, "it is neither alive nor a zombie");
    // An orphan is for whoever adopts it to reap.
    assert!(stat("grandchild").is_none_or(|stat| stat.contains(") Z ")));
}

#[test]
fn only_what_the_machine_did_may_end_otherwise_another_time() {
    for (text, transient) in [
        ("kill -9 $$", true),
        ("exec sleep 1000", true),
        ("exit 101", false),
        ("kill -SEGV $$", false),
        ("ulimit -S -t 1; while :; do :; done", false),
        ("echo memory allocation of 9 bytes failed >&2; kill -ABRT $$", false),
        ("echo hello", false),
        (REFUSED, false),
        // It is not for a worker to say.
        (r#"echo '{"refused":{"step":"check","reason":"no","transient":true}}'"#, false),
    ] {
        let time = Duration::from_secs(if text.starts_with("exec") { 1 } else { 60 });
        let error = refused(text, WorkerLimits { time, ..WorkerLimits::default() });
        assert_eq!(error.transient, transient, "{text}: {error}");
    }
}

#[test]
fn a_worker_gets_an_empty_environment_and_a_private_folder() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name| folder.path().join(name);
    // Environment as the kernel has it: the shell adds to its own.
    let text = format!(
        "cp /proc/$$/environ {}\nstat -c '%a %F' . > {}\nls > {}\nls -l /proc/$$/fd > {}\nkill -9 $$",
        path("environment").display(),
        path("folder").display(),
        path("files").display(),
        path("descriptors").display(),
    );
    let (_, reason) = run(&text, WorkerLimits::default());
    assert!(reason.contains("killed from outside"), "{reason}");
    let seen = |name| fs::read_to_string(path(name)).expect("the script wrote it");
    assert_eq!(seen("environment"), "");
    assert_eq!(seen("folder"), "700 directory\n");
    assert_eq!(seen("files"), "artifact\njob\n");
    assert!(!seen("descriptors").contains("socket:"), "{}", seen("descriptors"));
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let fixture = Fixture::new("/nowhere/airlock".into(), WorkerLimits::default());
    let error = fixture.check(&SandboxLimits::default(), guest::good()).expect_err("there is none");
    assert!(error.reason.contains("cannot be started") && !error.reason.contains("/nowhere"), "{error}");
    assert!(error.transient);
}
