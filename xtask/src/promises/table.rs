//! What is measured at full size: one entry for each measurement.

/// One measurement of a promise.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    pub name: &'static str,
    /// The row of `PROMISES.md`.
    pub promise: u32,
    /// How often what is measured happens.
    pub count: &'static str,
    /// What it takes on two cores, about.
    pub minutes: u32,
    pub environment: &'static [(&'static str, &'static str)],
    /// The core to run on, where the gateway has another one.
    pub core: Option<u32>,
    pub run: Run,
    pub figure: Figure,
}

#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// The integration tests of these names or parts of names.
    Tests(&'static [&'static str]),
    /// The same where there is too little address space for an instance pool.
    TestsOnDemand(&'static [&'static str]),
    /// A program of this workspace; `{bin}` in its arguments stands for the folder of the binaries.
    Program(&'static str, &'static [&'static str]),
}

/// Where the figure is in the output.
#[derive(Clone, Copy, Debug)]
pub enum Figure {
    /// The last line that contains this.
    Line(&'static str),
    /// These fields of the last line of JSON that has them.
    Json(&'static [&'static str]),
    /// The sum of all lines that say `… N rounds`, one for each case.
    Rounds,
}

const NEIGHBOURS: Figure =
    Figure::Json(&["p99_ratios", "victim_refused", "attacks", "solo_ms", "attacked_ms"]);
const PEERS: Figure = Figure::Json(&["figures"]);
const HOSTILE: &[&str] = &["sandbox::hostile", "hostile_guest::each_fault_has_its_answer"];
const ROUNDS: &str = "100 rounds of each case, 3 of those that take more than a second";

/// In the order in which they are run.
pub const ALL: [Measurement; 18] = [
    Measurement {
        name: "hostile-pooled",
        promise: 1,
        count: ROUNDS,
        minutes: 8,
        environment: &[("AIRLOCK_ROUNDS", "100")],
        core: None,
        run: Run::Tests(HOSTILE),
        figure: Figure::Rounds,
    },
    Measurement {
        name: "hostile-on-demand",
        promise: 1,
        count: ROUNDS,
        minutes: 8,
        environment: &[("AIRLOCK_ROUNDS", "100"), ("AIRLOCK_TEST_ON_DEMAND", "1")],
        core: None,
        run: Run::TestsOnDemand(HOSTILE),
        figure: Figure::Rounds,
    },
    Measurement {
        name: "residue",
        promise: 5,
        count: "10,000 alternations in each of 3 forms of memory",
        minutes: 30,
        environment: &[("AIRLOCK_RESIDUE_ROUNDS", "10000")],
        core: None,
        run: Run::Tests(&["hostile_guest::residue"]),
        figure: Figure::Line("foreign words"),
    },
    Measurement {
        name: "fair-loop",
        promise: 17,
        count: "5 rounds of 3 s alone and 3 s attacked",
        minutes: 1,
        environment: &[],
        core: Some(1),
        run: Run::Program(
            "airlock-neighbours",
            &["--gateway", "{bin}/airlock", "--core", "0", "--attack", "loop"],
        ),
        figure: NEIGHBOURS,
    },
    Measurement {
        name: "fair-memory",
        promise: 17,
        count: "5 rounds of 3 s alone and 3 s attacked",
        minutes: 1,
        environment: &[],
        core: Some(1),
        run: Run::Program(
            "airlock-neighbours",
            &["--gateway", "{bin}/airlock", "--core", "0", "--attack", "memory"],
        ),
        figure: NEIGHBOURS,
    },
    Measurement {
        name: "fair-short",
        promise: 17,
        count: "5 rounds of 3 s alone and 3 s attacked",
        minutes: 1,
        environment: &[],
        core: Some(1),
        run: Run::Program(
            "airlock-neighbours",
            &["--gateway", "{bin}/airlock", "--core", "0", "--attack", "short"],
        ),
        figure: NEIGHBOURS,
    },
    Measurement {
        name: "fair-compile",
        promise: 15,
        count: "3 rounds of 5 s alone and 5 s beside uploads of compile bombs",
        minutes: 3,
        environment: &[],
        core: Some(1),
        run: Run::Program(
            "airlock-neighbours",
            &[
                "--gateway",
                "{bin}/airlock",
                "--core",
                "0",
                "--attack",
                "compile",
                "--attackers",
                "4",
                "--rounds",
                "3",
                "--seconds",
                "5",
            ],
        ),
        figure: NEIGHBOURS,
    },
    Measurement {
        name: "fair-all",
        promise: 17,
        count: "5 rounds of 3 s alone and 3 s attacked",
        minutes: 2,
        environment: &[],
        core: Some(1),
        run: Run::Program(
            "airlock-neighbours",
            &["--gateway", "{bin}/airlock", "--core", "0", "--attack", "all"],
        ),
        figure: NEIGHBOURS,
    },
    Measurement {
        name: "leave",
        promise: 36,
        count: "100 clients that leave, by HTTP/1.1 and by HTTP/2 each",
        minutes: 1,
        environment: &[("AIRLOCK_ROUNDS", "100")],
        core: None,
        run: Run::Tests(&["leaving::a_client_that_leaves_"]),
        figure: Figure::Line("a guest stops at most"),
    },
    Measurement {
        name: "isolation",
        promise: 16,
        count: "500 calls in process and in a worker, interleaved; 100 kills",
        minutes: 3,
        environment: &[],
        core: Some(1),
        run: Run::Program("airlock-isolation", &["--gateway", "{bin}/airlock", "--core", "0"]),
        figure: Figure::Json(&["work", "tiny", "deaths"]),
    },
    Measurement {
        name: "stalled",
        promise: 18,
        count: "9,000 connections in each of 3 rounds",
        minutes: 4,
        environment: &[],
        core: Some(1),
        run: Run::Program("airlock-peers", &["--gateway", "{bin}/airlock", "--core", "0", "stalled"]),
        figure: PEERS,
    },
    Measurement {
        name: "overload",
        promise: 34,
        count: "3 rounds of 5 s at five times what can be answered",
        minutes: 2,
        environment: &[],
        core: Some(1),
        run: Run::Program("airlock-peers", &["--gateway", "{bin}/airlock", "--core", "0", "overload"]),
        figure: PEERS,
    },
    Measurement {
        name: "bodies",
        promise: 35,
        count: "10 kinds of 16 MiB, 3 rounds",
        minutes: 2,
        environment: &[],
        core: Some(1),
        run: Run::Program("airlock-peers", &["--gateway", "{bin}/airlock", "--core", "0", "bodies"]),
        figure: PEERS,
    },
    Measurement {
        name: "abuse",
        promise: 39,
        count: "100 models, 12 sequences of calls, 40 changes of version",
        minutes: 2,
        environment: &[("AIRLOCK_MODELS", "100")],
        core: None,
        run: Run::Tests(&["abuse::"]),
        figure: Figure::Line("test result: ok"),
    },
    Measurement {
        name: "metering",
        promise: 19,
        count: "100,000 calls and those around the drain",
        minutes: 1,
        environment: &[("AIRLOCK_METERING_CALLS", "100000")],
        core: None,
        run: Run::Tests(&["metering::the_ledger_has_every_request_"]),
        figure: Figure::Line("difference 0"),
    },
    Measurement {
        name: "timing-keys",
        promise: 21,
        count: "1,000,000 refusals",
        minutes: 1,
        environment: &[],
        core: None,
        run: Run::Program("airlock-timing", &["keys"]),
        figure: Figure::Json(&["worst_t", "passes"]),
    },
    Measurement {
        name: "kills",
        promise: 23,
        count: "1,000 kills",
        minutes: 13,
        environment: &[("AIRLOCK_KILLS", "1000")],
        core: None,
        run: Run::Tests(&["storage_faults::nothing_is_half_published"]),
        figure: Figure::Line("versions acknowledged"),
    },
    Measurement {
        name: "timing-models",
        promise: 24,
        count: "400,000 requests at each of 8 doors",
        minutes: 1,
        environment: &[],
        core: None,
        run: Run::Program("airlock-timing", &["models"]),
        figure: Figure::Json(&["worst_t", "passes"]),
    },
];
