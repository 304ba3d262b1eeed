//! Generates the protobuf and gRPC code from `proto/`, without an installed `protoc`.

use std::error::Error;
use std::path::Path;

use tonic_build::manual;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::Compiler::new([&root])?
        .include_source_info(true)
        .include_imports(true)
        .open_file("causeway/v1/routes.proto")?
        .open_file("causeway/v1/relay.proto")?
        .open_file("causeway/v1/sessions.proto")?
        .file_descriptor_set();
    let services = files.file.iter().flat_map(|file| {
        let package = file.package();
        file.service.iter().map(move |service| stubs(package, service))
    });
    manual::Builder::new().compile(&services.collect::<Vec<_>>());
    // `Bytes` fields share the buffer they were received in: a payload is not copied.
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(false)
        .build_server(false)
        .compile_fds(files)?;
    Ok(())
}

/// The stubs of a service whose frames this crate encodes and decodes itself.
fn stubs(package: &str, service: &prost_types::ServiceDescriptorProto) -> manual::Service {
    let start = manual::Service::builder().name(service.name()).package(package);
    let service = service.method.iter().fold(start, |stubs, method| {
        let stub = manual::Method::builder()
            .name(method.name().to_lowercase())
            .route_name(method.name())
            .input_type("bytes::Bytes")
            .output_type("bytes::Bytes")
            .codec_path("crate::codec::FrameCodec")
            .client_streaming()
            .server_streaming();
        stubs.method(stub.build())
    });
    service.build()
}
