//! Split files: which tensors go into which, their names and their keys. Pure.
//!
//! A tensor lies wholly in one file. The first file holds all metadata; every file says which it is of how many, and
//! how many tensors all have together.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::parts::Numbered;
use super::{Layout, Metadata, TensorInfo, Value};

/// More files cannot be numbered with five digits, or counted with sixteen bits.
pub const MAX_FILES: u16 = u16::MAX;

/// How a model is divided into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// One file, without a number in its name.
    Whole,
    /// As many files as it takes for none to be larger than this many bytes.
    Size(u64),
    /// This many files of about equal size.
    Count(u16),
}

/// One of the files: a run of tensors and where each goes.
#[derive(Clone, Debug)]
pub struct File {
    /// Its tensors, by their place in the model.
    pub tensors: Range<usize>,
    /// Header and offsets; the first offset is that of the first of its tensors.
    pub layout: Layout,
}

impl Split {
    /// The files of a model, each laid out.
    ///
    /// # Errors
    /// Says why the division is not possible: a tensor alone is larger than a file may be, or there are more files
    /// than tensors.
    pub fn files(self, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Vec<File>, String> {
        let runs = match self {
            Self::Whole => {
                let layout = Layout::new(metadata, tensors);
                return Ok(vec![File { tensors: 0..tensors.len(), layout }]);
            }
            Self::Size(limit) => by_size(metadata, tensors, limit)?,
            Self::Count(count) => by_count(tensors, count)?,
        };
        let count = runs.len() as u16;
        let file = |(number, run): (usize, Range<usize>)| {
            let metadata = keys(metadata, number as u16, count, tensors.len());
            let layout = Layout::new(&metadata, &tensors[run.clone()]);
            File { tensors: run, layout }
        };
        Ok(runs.into_iter().enumerate().map(file).collect())
    }

    /// The name of file `number` of `count`, counted from 0: `NAME-00001-of-00004.gguf` for `NAME.gguf`, and for the
    /// name of any file of a split.
    pub fn name(self, output: &Path, number: usize, count: usize) -> PathBuf {
        if self == Self::Whole {
            return output.to_owned();
        }
        let stem = match output.extension() {
            Some(extension) if extension == "gguf" => output.file_stem(),
            _ => output.file_name(),
        };
        let numbered = output.file_name().and_then(Numbered::of);
        let mut name = numbered.map_or_else(|| stem.unwrap_or_default().to_owned(), |numbered| numbered.stem);
        name.push(format!("-{:05}-of-{count:05}.gguf", number + 1));
        output.with_file_name(name)
    }
}

/// The metadata of one file of a split.
fn keys(all: &Metadata, number: u16, count: u16, tensors: usize) -> Metadata {
    let mut metadata = if number == 0 { all.clone() } else { Metadata::default() };
    metadata.set("split.no", Value::U16(number));
    metadata.set("split.count", Value::U16(count));
    metadata.set("split.tensors.count", Value::I32(tensors as i32));
    metadata
}

/// Fills each file in order until the next tensor does not fit.
fn by_size(metadata: &Metadata, tensors: &[TensorInfo], limit: u64) -> Result<Vec<Range<usize>>, String> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < tensors.len() {
        let number = runs.len() as u16;
        let keys = keys(metadata, number, 1, tensors.len());
        let mut size = Sizes::of(&keys);
        let end = start + tensors[start..].iter().take_while(|tensor| size.add(tensor) <= limit).count();
        if end == start {
            let least = Layout::new(&keys, &tensors[start..=start]).file_size;
            return Err(format!("a file with {} alone has {least} bytes", tensors[start].name));
        }
        if runs.len() == usize::from(MAX_FILES) {
            return Err(format!("that takes more than {MAX_FILES} files"));
        }
        runs.push(start..end);
        start = end;
    }
    Ok(runs)
}

/// Cuts after the tensor in whose middle, or behind it, each of the shares ends; no file is empty.
fn by_count(tensors: &[TensorInfo], count: u16) -> Result<Vec<Range<usize>>, String> {
    let count = usize::from(count);
    if count == 0 || count > tensors.len() {
        return Err(format!("{count} files cannot hold {} tensors, at least one in each", tensors.len()));
    }
    let total: u128 = tensors.iter().map(|tensor| u128::from(tensor.bytes())).sum();
    let mut runs = Vec::with_capacity(count);
    let (mut start, mut end, mut before) = (0, 0, 0u128);
    for number in 1..=count {
        let goal = total * number as u128 / count as u128;
        let last = tensors.len() - (count - number);
        while end < last {
            let bytes = u128::from(tensors[end].bytes());
            if number < count && end > start && before + bytes / 2 >= goal {
                break;
            }
            before += bytes;
            end += 1;
        }
        runs.push(start..end);
        start = end;
    }
    Ok(runs)
}

/// The size of a file as tensors are added, equal to what [`Layout`] finds.
struct Sizes {
    header: u64,
    data: u64,
}

impl Sizes {
    fn of(metadata: &Metadata) -> Self {
        Self { header: Layout::unpadded_header(metadata), data: 0 }
    }

    fn add(&mut self, tensor: &TensorInfo) -> u64 {
        self.header += tensor.info_bytes();
        self.data += tensor.bytes().next_multiple_of(super::layout::ALIGNMENT);
        self.header.next_multiple_of(super::layout::ALIGNMENT) + self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quant_kernels::Format;

    fn tensors(rows: &[u64]) -> Vec<TensorInfo> {
        let info = |(i, rows): (usize, &u64)| TensorInfo {
            name: format!("blk.{i}.ffn.weight"),
            shape: vec![256, *rows],
            format: Format::Q8_0,
        };
        rows.iter().enumerate().map(info).collect()
    }

    fn metadata() -> Metadata {
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", "deepseek2".into());
        metadata
    }

    fn runs(files: &[File]) -> Vec<Range<usize>> {
        files.iter().map(|file| file.tensors.clone()).collect()
    }

    #[test]
    fn files_of_a_split_are_numbered_once() {
        let name = |output: &str| Split::Count(4).name(output.as_ref(), 1, 4);
        for output in ["a/R1.gguf", "a/R1", "a/R1-00001-of-00003.gguf"] {
            assert_eq!(name(output), Path::new("a/R1-00002-of-00004.gguf"), "{output}");
        }
        assert_eq!(Split::Whole.name("a.gguf".as_ref(), 0, 1), Path::new("a.gguf"));
    }

    #[test]
    fn no_file_is_larger_than_asked_for_and_none_could_take_one_tensor_more() {
        let tensors = tensors(&[100, 3, 50, 50, 1, 1, 90, 7, 100]);
        for limit in [28_000, 30_000, 50_000, 1_000_000] {
            let files = Split::Size(limit).files(&metadata(), &tensors).expect("possible");
            let mut next = 0;
            for (number, file) in files.iter().enumerate() {
                assert!(file.layout.file_size <= limit, "{limit}");
                assert_eq!(file.tensors.start, next);
                next = file.tensors.end;
                if next < tensors.len() {
                    let keys = keys(&metadata(), number as u16, files.len() as u16, tensors.len());
                    let more = Layout::new(&keys, &tensors[file.tensors.start..=next]);
                    assert!(more.file_size > limit, "{limit}");
                }
            }
            assert_eq!(next, tensors.len());
        }
        let problem = Split::Size(20_000).files(&metadata(), &tensors).expect_err("too small");
        assert!(problem.contains("blk.0.ffn.weight alone has 27"), "{problem}");
    }

    #[test]
    fn a_number_of_files_is_balanced_by_bytes_and_none_is_empty() {
        let run =
            |rows: &[u64], count| runs(&Split::Count(count).files(&metadata(), &tensors(rows)).expect("ok"));
        assert_eq!(run(&[1, 1, 1, 1], 2), [0..2, 2..4]);
        assert_eq!(run(&[100, 1, 1, 1], 3), [0..1, 1..2, 2..4]);
        assert_eq!(run(&[1, 1, 1, 100], 3), [0..2, 2..3, 3..4]);
        assert_eq!(run(&[5, 5, 5], 2), [0..1, 1..3]);
        assert!(Split::Count(4).files(&metadata(), &tensors(&[1, 1, 1])).is_err());
        assert!(Split::Count(0).files(&metadata(), &tensors(&[1])).is_err());
    }

    #[test]
    fn only_the_first_file_has_the_models_metadata_and_all_have_the_splits() {
        let metadata = metadata();
        let first = keys(&metadata, 0, 2, 7);
        let second = keys(&metadata, 1, 2, 7);
        assert_eq!(first.get("general.architecture"), Some(&"deepseek2".into()));
        assert_eq!(second.iter().count(), 3);
        assert_eq!(second.get("split.no"), Some(&Value::U16(1)));
        assert_eq!(second.get("split.count"), Some(&Value::U16(2)));
        assert_eq!(second.get("split.tensors.count"), Some(&Value::I32(7)));
    }

    #[test]
    fn names_are_llama_cpps() {
        let name = |split: Split, output: &str| split.name(Path::new(output), 1, 12).display().to_string();
        assert_eq!(name(Split::Count(12), "a/R1.gguf"), "a/R1-00002-of-00012.gguf");
        assert_eq!(name(Split::Count(12), "R1.v2"), "R1.v2-00002-of-00012.gguf");
        assert_eq!(name(Split::Whole, "R1.gguf"), "R1.gguf");
    }
}
