//! What gguf-rs reads in files, as a JSON object a line.

use serde_json::json;

fn main() -> anyhow::Result<()> {
    for file in std::env::args().skip(1) {
        let model = gguf_rs::get_gguf_container_array_size(&file, u64::MAX)?.decode()?;
        let tensors = model.tensors().iter().map(|tensor| {
            json!({
                "name": tensor.name,
                "kind": tensor.kind,
                "shape": tensor.shape,
                "offset": model.data_offset() + tensor.offset,
                "bytes": tensor.size,
            })
        });
        let tensors: Vec<_> = tensors.collect();
        let (version, metadata) = (model.get_version(), model.metadata());
        println!("{}", json!({"version": version, "metadata": metadata, "tensors": tensors}));
    }
    Ok(())
}
