//! `PROMISES.md`, the table of measurements and the tests that both name agree.

use std::collections::BTreeSet;

use super::*;

/// What `PROMISES.md` names beside tests.
const PROGRAMS: [&str; 2] = ["strace", "unshare"];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The integration tests by their whole names.
fn tests() -> BTreeSet<String> {
    let root = shell::root().join("tests/it");
    let mut tests = BTreeSet::new();
    for file in files(&root) {
        let module = file.strip_prefix(&root).expect("below the root").with_extension("");
        let module = module.display().to_string().replace('/', "::");
        let text = read(&file);
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, name)) = line.split_once("fn ").filter(|_| is_test) {
                let name = name.split('(').next().expect("a name");
                tests.insert(format!("{module}::{name}"));
                is_test = false;
            } else if let Some((name, _)) = line.split_once(" => ")
                && text.contains("\ntests! {")
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            {
                tests.insert(format!("{module}::{name}"));
            }
        }
    }
    assert!(tests.len() > 150, "only {} tests were found", tests.len());
    for name in ["sandbox::hostile::grow_memory", "uploads::limits::receiving_256_mib_", "tenants::"] {
        assert!(tests.iter().any(|test| test.starts_with(name)), "{name} was not found");
    }
    tests
}

/// The cells of each promise's row: number, promise, figure, what shows it.
fn rows(text: &str) -> Vec<[&str; 4]> {
    let (promises, _) = text.split_once(BEGIN).expect("the mark");
    let rows = promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    let cells = rows.map(|row| {
        // A bar in a cell is written with a backslash.
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        <[&str; 4]>::try_from(cells).unwrap_or_else(|cells| panic!("{} cells: {row}", cells.len()))
    });
    cells.collect()
}

/// What a cell has between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn what_promises_md_names_exists() {
    let (root, tests) = (shell::root(), tests());
    let text = read(&root.join("PROMISES.md"));
    let sources = files(&root.join("gateway/src")).into_iter().chain(files(&root.join("tests")));
    let sources: Vec<String> = sources.map(|file| file.display().to_string()).collect();
    let mut faults = Vec::new();
    for [number, .., shown_by] in rows(&text) {
        let mut module = "";
        for name in quoted(shown_by) {
            let whole = name.replacen('…', module, usize::from(name.starts_with("…::")));
            let begin = whole.trim_end_matches('…');
            let is_test = tests.iter().any(|test| {
                test == begin
                    || test.starts_with(&format!("{begin}::"))
                    || (whole.ends_with('…') && test.starts_with(begin))
            });
            let is_source = sources.iter().any(|file| {
                file.ends_with(&format!("/{name}"))
                    || file.contains(&format!("/src/{name}/"))
                    || file.ends_with(&format!("/src/{name}.rs"))
            });
            let program = name.split(' ').next().unwrap_or_default();
            let is_program = PROGRAMS.contains(&name)
                || root.join(format!("tests/src/bin/{program}.rs")).is_file()
                || root.join(format!("tests/src/bin/{program}/main.rs")).is_file();
            let is_setting = name.split_once('=').is_some_and(|(setting, value)| {
                ALL.iter().any(|measurement| measurement.environment.contains(&(setting, value)))
            });
            if !(is_test || is_source || is_program || is_setting || name.starts_with("--")) {
                faults.push(format!("{number}: there is no `{name}`"));
            }
            if is_test && let Some((found, _)) = name.rsplit_once("::").filter(|(found, _)| *found != "…") {
                module = found;
            }
        }
    }
    assert!(faults.is_empty(), "PROMISES.md names what does not exist: {faults:#?}");
}

#[test]
fn the_promises_are_numbered_and_each_measurement_has_one() {
    let text = read(&shell::root().join("PROMISES.md"));
    let numbers: Vec<u32> =
        rows(&text).iter().map(|[number, ..]| number.parse().expect("a number")).collect();
    assert_eq!(numbers, (1..=u32::try_from(numbers.len()).expect("few")).collect::<Vec<_>>());
    let names: BTreeSet<&str> = ALL.iter().map(|measurement| measurement.name).collect();
    assert_eq!(names.len(), ALL.len(), "two measurements have one name");
    for measurement in &ALL {
        assert!(numbers.contains(&measurement.promise), "{}", measurement.name);
    }
}

#[test]
fn what_is_measured_exists() {
    let (root, tests) = (shell::root(), tests());
    let sources: String = files(&root.join("tests"))
        .iter()
        .filter(|file| file.extension().is_some_and(|kind| kind == "rs"))
        .map(|file| read(file))
        .collect();
    for measurement in &ALL {
        match measurement.run {
            Run::Tests(filters) | Run::TestsOnDemand(filters) => {
                for filter in filters {
                    assert!(tests.iter().any(|test| test.contains(filter)), "no test is named {filter}");
                }
            }
            Run::Program(program, _) => assert!(
                root.join(format!("tests/src/bin/{program}.rs")).is_file()
                    || root.join(format!("tests/src/bin/{program}/main.rs")).is_file(),
                "{program}"
            ),
        }
        for (name, _) in measurement.environment {
            assert!(sources.contains(&format!("\"{name}\"")), "nothing asks for {name}");
        }
    }
}

#[test]
fn figures_are_found_in_the_output() {
    let output = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let line = Figure::Line("difference 0");
    let said = output("test metering::a ... 7 calls, difference 0, in 2s\ntest result: ok. 1 passed");
    assert_eq!(line.of(&said).as_deref(), Some("7 calls, difference 0, in 2s"));
    assert_eq!(line.of(&output("test result: ok. 0 passed")), None, "no such test was run");
    let fields = Figure::Json(&["worst_t", "passes", "at"]);
    let said = output("{\"worst_t\":9}\n{\"worst_t\":1.234,\"passes\":true,\"at\":[1.0,2.5]}\nbye");
    assert_eq!(fields.of(&said).as_deref(), Some("worst t 1.23, passes true, at 1.00 · 2.50"));
    let said = output("test a ... a: 100 rounds\nb: 3 rounds\ntest b ... ok");
    assert_eq!(Figure::Rounds.of(&said).as_deref(), Some("0 of 103 rounds of 2 cases failed"));
    assert_eq!(Figure::Rounds.of(&output("ok")), None);
}

#[test]
fn figures_replace_those_before_and_leave_what_is_not_measured_here() {
    let [first, second, ..] = &ALL;
    let row = |measurement: &Measurement, figure: &str| {
        format!("| {} | {} | {figure} |", measurement.promise, measurement.name)
    };
    let text = format!(
        "# P\n{BEGIN}\n{}\n{}\n| 9 | gone | 1 |\n{END}\nrest\n",
        row(first, "old"),
        row(second, "kept")
    );
    let done = |measurement: &Measurement| {
        (measurement.name == first.name)
            .then(|| json!({ "figure": "|t| 1", "count": "2", "command": "a b", "commit": "abc" }))
    };
    let written = with_figures(&text, done).expect("the marks are there");
    assert!(
        written.contains(&format!(
            "{} 2 | `a b` | abc |\n{}\n\n{END}\nrest\n",
            row(first, "\\|t\\| 1"),
            row(second, "kept")
        )),
        "{written}"
    );
    assert!(!written.contains("old") && !written.contains("gone"));
    assert_eq!(with_figures(&written, done).expect("the marks are there"), written);
    assert!(with_figures("nothing", done).is_err());
}

#[test]
fn commands_can_be_typed() {
    let shown =
        |name: &str| ALL.iter().find(|measurement| measurement.name == name).expect("it is there").shown();
    assert_eq!(
        shown("fair-loop"),
        "taskset -c 1 target/debug/airlock-neighbours --gateway target/debug/airlock --core 0 --attack loop"
    );
    let on_demand = shown("hostile-on-demand");
    assert!(on_demand.starts_with("AIRLOCK_ROUNDS=100 AIRLOCK_TEST_ON_DEMAND=1 sh -c 'ulimit -v 67108864; exec \"$@\"' sh cargo test "), "{on_demand}");
}
