//! The layout of a GGUF file: header and all offsets, computed before any data exist. Pure.

use quant_kernels::Format;

use super::{Metadata, Value};

/// Tensor data begins at multiples of this, where general.alignment does not say otherwise.
pub const ALIGNMENT: u64 = 32;

/// Longer names are refused by llama.cpp.
pub(super) const MAX_NAME: usize = 63;

/// A tensor to be laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Row length first.
    pub shape: Vec<u64>,
    /// Type of all its weights.
    pub format: Format,
}

impl TensorInfo {
    /// Bytes of data, without padding.
    pub fn bytes(&self) -> u64 {
        self.format.row_bytes(self.shape[0]) * self.shape[1..].iter().product::<u64>()
    }

    /// Bytes that it adds to the header.
    pub(super) fn info_bytes(&self) -> u64 {
        (8 + self.name.len() + 4 + 8 * self.shape.len() + 4 + 8) as u64
    }
}

/// The bytes before the data, and the place of each tensor.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Header, metadata, tensor infos, padding.
    pub header: Vec<u8>,
    /// First byte of each tensor, from the start of the file, in the order given.
    pub offsets: Vec<u64>,
    /// Bytes of the whole file; the padding between and after tensors is zeros.
    pub file_size: u64,
}

impl Layout {
    /// Lays out the tensors in the order given.
    ///
    /// # Panics
    /// If a row is not a whole number of blocks or a name has more than 63 bytes: planning promises neither happens.
    pub fn new(metadata: &Metadata, tensors: &[TensorInfo]) -> Self {
        let mut header = beginning(metadata, tensors.len());
        let alignment = alignment(metadata);
        let mut relative = 0;
        let mut offsets = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            assert!(tensor.name.len() <= MAX_NAME, "{} has more than {MAX_NAME} bytes", tensor.name);
            string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in &tensor.shape {
                header.extend((*dim as i64).to_le_bytes());
            }
            header.extend((tensor.format.id() as i32).to_le_bytes());
            header.extend(u64::to_le_bytes(relative));
            offsets.push(relative);
            relative += tensor.bytes().next_multiple_of(alignment);
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let data = header.len() as u64;
        offsets.iter_mut().for_each(|offset| *offset += data);
        Self { header, offsets, file_size: data + relative }
    }

    /// Bytes before the infos of the tensors.
    pub(super) fn unpadded_header(metadata: &Metadata) -> u64 {
        beginning(metadata, 0).len() as u64
    }
}

/// The alignment: all data begin at multiples of it. By general.alignment, if that is valid.
pub(super) fn alignment(metadata: &Metadata) -> u64 {
    match metadata.get("general.alignment") {
        Some(&Value::U32(n)) if n.is_power_of_two() => n.into(),
        _ => ALIGNMENT,
    }
}

/// Magic, version, counts and metadata.
fn beginning(metadata: &Metadata, tensors: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors as i64).to_le_bytes());
    header.extend((metadata.iter().len() as i64).to_le_bytes());
    for (key, value) in metadata.iter() {
        string(&mut header, key);
        value.write(&mut header);
    }
    header
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_aligned_and_without_gaps() {
        let info = |name: &str, shape: &[u64], format| TensorInfo {
            name: name.into(),
            shape: shape.to_vec(),
            format,
        };
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", "deepseek2".into());
        metadata.set("a.flag", Value::Bool(true));
        let tensors = [
            info("a", &[3], Format::F32),
            info("b", &[256, 3, 2], Format::IQ1_S),
            info("c", &[32], Format::Q8_0),
        ];
        let layout = Layout::new(&metadata, &tensors);
        let data = layout.header.len() as u64;
        assert!(data.is_multiple_of(32));
        assert_eq!(layout.offsets, [data, data + 32, data + 32 + 320]);
        assert_eq!(layout.file_size, data + 32 + 320 + 64);
        assert_eq!(
            layout.header[..24],
            [&b"GGUF\x03\0\0\0"[..], &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]].concat()
        );
    }
}
