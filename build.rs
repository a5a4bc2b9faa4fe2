//! Compiles the proto with protox, so that building needs no protoc.

#[cfg(not(feature = "_grpc"))]
fn main() {}

#[cfg(feature = "_grpc")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::{env, path::PathBuf};

    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // Comments are kept, for reflection and for rustdoc.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_file("readyd/v1/readyd.proto")?;
    std::fs::write(
        out.join("readyd_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        // protox has already made the descriptors.
        .skip_protoc_run()
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
