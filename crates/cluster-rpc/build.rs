//! Generates the protobuf and gRPC code from `proto/`, without an installed `protoc`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::Compiler::new([&root])?
        .include_source_info(true)
        .include_imports(true)
        .open_file("causeway/v1/routes.proto")?
        .open_file("causeway/v1/relay.proto")?
        .file_descriptor_set();
    // `Bytes` fields share the buffer they were received in: a payload is not copied.
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
