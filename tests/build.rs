//! Makes a constant of every hostile fixture, and a macro that names them all: a fixture without a test does not compile.

use std::{env, fmt::Write as _, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=hostile");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("the folder of fixtures is there")
        .filter_map(|entry| entry.expect("the folder can be read").file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".wat").map(str::to_owned))
        .filter(|name| !name.starts_with('_'))
        .collect();
    names.sort();

    let mut code = String::new();
    for name in &names {
        let path = folder.join(format!("{name}.wat"));
        let constant = name.to_uppercase();
        writeln!(code, "pub const {constant}: &str = include_str!({path:?});").expect("a string takes it");
    }
    let list = names.join(" ");
    writeln!(
        code,
        "/// Calls `$callback!` with the name of every fixture.\n#[macro_export]\nmacro_rules! foreach_hostile {{ \
         ($callback:ident) => {{ $callback! {{ {list} }} }}; }}"
    )
    .expect("a string takes it");
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("hostile.rs"), code).expect("the output folder can be written");
}
