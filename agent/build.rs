//! Compiles the agent's excerpt of the container runtime interface into `OUT_DIR`; protox parses it in Rust, so nobody
//! needs `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const FOLDER: &str = "src/act/images";
    println!("cargo::rerun-if-changed={FOLDER}/cri.proto");
    let descriptors = protox::compile(["cri.proto"], [FOLDER])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
