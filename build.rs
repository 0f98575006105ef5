//! Compiles the wire contract into `OUT_DIR`. protox parses the `.proto` files in Rust, so nobody needs `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/dogwatch/v1");
    let files = [
        "dogwatch/v1/record.proto",
        "dogwatch/v1/block.proto",
        "dogwatch/v1/intake.proto",
        "dogwatch/v1/desk.proto",
        "dogwatch/v1/executor.proto",
        "dogwatch/v1/usage.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".dogwatch.v1").compile_fds(descriptors)?;
    Ok(())
}
