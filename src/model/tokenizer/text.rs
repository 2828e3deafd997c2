//! Texts as models are run over them: files, read a piece at a time, to chunks of tokens.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Encoder, TEXT_PIECE};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::identity::hex;
use crate::model::Description;

/// Files of UTF-8 text, and how they are cut.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The files, one after another.
    pub files: &'a [PathBuf],
    /// At most so many chunks; all whole ones if None.
    pub chunks: Option<u32>,
    /// Tokens in a chunk, 2 or more.
    pub context: u32,
}

impl Text<'_> {
    /// The tokens of the whole chunks, one chunk after another, by the checkpoint's own tokenizer: BOS and all files as one
    /// text, as llama-imatrix has it, to calibrate and for error feedback. Each chunk's first token is replaced by BOS. What
    /// lies behind the last chunk is not read.
    ///
    /// # Errors
    /// If there is no tokenizer that reads text ([`Encoder::read`]), a file cannot be read or is not UTF-8, the text is
    /// shorter than a chunk, or chunks are longer than what is computed of the model.
    pub fn tokens(&self, checkpoint: &Checkpoint, model: &Description) -> Result<Vec<u32>> {
        let encoder = self.encoder(checkpoint, model)?;
        let mut ids = Vec::from_iter(model.bos);
        for path in self.files {
            encode(path, &encoder, model.vocabulary as usize, self.enough(), &mut ids)?;
        }
        let short = |found| format!("the text has {found} tokens, less than a chunk of {}", self.context);
        self.in_chunks(ids, model, short)
    }

    /// The tokens of the whole chunks of each file, to evaluate: no chunk has something of two files, nor BOS but in the place
    /// of its first token. At most so many chunks are taken of each.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens), of any of the files.
    pub fn tokens_of_each(&self, checkpoint: &Checkpoint, model: &Description) -> Result<Vec<Vec<u32>>> {
        let encoder = self.encoder(checkpoint, model)?;
        let of_file = |path: &PathBuf| {
            let mut ids = Vec::new();
            encode(path, &encoder, model.vocabulary as usize, self.enough(), &mut ids)?;
            let short = |found| {
                format!("{}: has {found} tokens, less than a chunk of {}", path.display(), self.context)
            };
            self.in_chunks(ids, model, short)
        };
        self.files.iter().map(of_file).collect()
    }

    /// The tokenizer, if the model can have such chunks.
    fn encoder(&self, checkpoint: &Checkpoint, model: &Description) -> Result<Encoder> {
        let context = self.context;
        if context < 2 {
            return Err(Error::Argument(format!("chunks of {context} tokens; expected 2 or more")));
        }
        if let Some(most) = model.dense_length().filter(|most| context > *most) {
            return Err(Error::Unsupported(format!(
                "chunks of {context} tokens: in texts of more than {most} this model's attention sees a choice of the tokens \
                 (sparse attention), which is not computed here; chunks may have up to {most}"
            )));
        }
        Encoder::read(checkpoint)
    }

    /// Tokens beyond which none are needed.
    fn enough(&self) -> usize {
        self.chunks.map_or(usize::MAX, |most| (most as usize).saturating_mul(self.context as usize))
    }

    /// Whole chunks that begin with BOS; `short` says what is wrong with so many tokens if there is none.
    fn in_chunks(
        &self,
        mut ids: Vec<u32>,
        model: &Description,
        short: impl Fn(usize) -> String,
    ) -> Result<Vec<u32>> {
        let context = self.context as usize;
        let whole = ids.len() / context;
        if whole == 0 {
            return Err(Error::Argument(short(ids.len())));
        }
        ids.truncate(self.chunks.map_or(whole, |most| whole.min(most as usize)) * context);
        if let Some(bos) = model.bos {
            ids.iter_mut().step_by(context).for_each(|id| *id = bos);
        }
        Ok(ids)
    }

    /// SHA-256 of the files' contents and of how they are cut, for [`Wishes::feedback`](crate::recipe::Wishes::feedback).
    ///
    /// # Errors
    /// If a file cannot be read, or is none that can be read twice.
    pub fn digest(&self) -> Result<String> {
        let mut digest = Sha256::new();
        for path in self.files {
            let io = |e| Error::io("read", path, e);
            let mut file = open(path)?;
            let length = file.metadata().map_err(io)?.len();
            // Lengths keep one text's end apart from the next one's beginning.
            digest.update(length.to_le_bytes());
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer).map_err(io)? {
                    0 => break,
                    read => digest.update(&buffer[..read]),
                }
            }
        }
        digest.update(self.chunks.unwrap_or(0).to_le_bytes());
        digest.update(self.context.to_le_bytes());
        Ok(hex(&digest.finalize().into()))
    }

    /// What is to be said of chunks that are longer than the model's context.
    pub fn beyond_context(&self, model: &Description) -> Option<String> {
        let (context, limit) = (self.context, model.context);
        (context > limit).then(|| format!(
            "chunks of {context} tokens are longer than the model's context of {limit}: beyond it, what it computes is not what it \
             was trained for"
        ))
    }
}

/// Adds the ids of a text, a piece at a time, until there are enough.
fn encode(
    path: &Path,
    encoder: &Encoder,
    vocabulary: usize,
    enough: usize,
    ids: &mut Vec<u32>,
) -> Result<()> {
    if ids.len() >= enough {
        return Ok(());
    }
    let mut file = open(path)?;
    let not_utf8 = || Error::Argument(format!("{}: is not UTF-8", path.display()));
    let (mut cutter, mut buffer) = (encoder.cutter(TEXT_PIECE), vec![0; 1 << 16]);
    let mut goes_on = false;
    loop {
        let read = file.read(&mut buffer).map_err(|e| Error::io("read", path, e))?;
        if read == 0 {
            break;
        }
        if !cutter.push(&buffer[..read]) {
            return Err(not_utf8());
        }
        while let Some(piece) = cutter.cut() {
            ids.extend(encoder.encode_part(&piece, goes_on, vocabulary)?);
            goes_on = true;
            if ids.len() >= enough {
                return Ok(());
            }
        }
    }
    if cutter.is_cut_short() {
        return Err(not_utf8());
    }
    ids.extend(encoder.encode_part(&cutter.last(), goes_on, vocabulary)?);
    Ok(())
}

/// Opens a text. A pipe or a device has no second reading, and may have no end.
fn open(path: &Path) -> Result<File> {
    let io = |e| Error::io("read", path, e);
    if !fs::metadata(path).map_err(io)?.is_file() {
        let problem =
            "is no regular file; a text is read again when its work is, so write it to a file first";
        return Err(Error::Argument(format!("{}: {problem}", path.display())));
    }
    File::open(path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_where_one_text_ends() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let digest = |texts: [&str; 2]| {
            let files = [0, 1].map(|n: usize| folder.path().join(n.to_string()));
            files.iter().zip(texts).for_each(|(file, text)| fs::write(file, text).expect("written"));
            Text { files: &files, chunks: None, context: 512 }.digest().expect("read")
        };
        assert_ne!(digest(["one", "two"]), digest(["onet", "wo"]));
        assert_eq!(digest(["one", "two"]), digest(["one", "two"]));
    }
}
