//! Generates the types of the operator's own protocols from their protos, without protoc: the exchange between replicas,
//! and what KEDA asks of an external scaler.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["peers.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".sluice.peers.v1.Manifest")
        .compile_fds(descriptors)?;
    let descriptors = protox::compile(["externalscaler.proto"], ["proto"])?;
    // The client is for tests; without transport it costs nothing but its text.
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
