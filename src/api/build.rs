//! Generates the gRPC code.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .compile_protos(&["proto/spacecloud.proto"], &["proto"])?;
    Ok(())
}
