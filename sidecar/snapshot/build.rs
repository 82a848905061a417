//! Generates the stream's types from its proto, without protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/stream.proto");
    let descriptors = protox::compile(["stream.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".sluice.stream.v1.Unit.body")
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .compile_fds(descriptors)?;
    Ok(())
}
