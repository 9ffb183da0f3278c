//! Makes Rust of the gRPC interface in `proto/`, without any tool of the system's.

use std::{env, fs, path::Path};

use prost::Message as _;

const FILES: [&str; 3] = ["inference.proto", "health.proto", "reflection.proto"];

fn main() {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"]).expect("proto/ holds valid files");
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("files.bin"), files.encode_to_vec())
        .expect("the output folder can be written");
    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .compile_fds(files)
        .expect("what was compiled can be written as Rust");
}
