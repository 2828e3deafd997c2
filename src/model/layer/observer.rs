//! The observer of a forward pass: it is shown the inputs of every matrix.

use dense_kernels::View;

use crate::error::Result;

/// What some tensors multiply: rows of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Places of the tensors among those of the weights; more than one where they share inputs.
    pub tensors: &'a [usize],
    /// Expert or head.
    pub slice: usize,
    /// A row for each token.
    pub inputs: View<'a>,
}

/// How the loss changes with what some tensors give: rows of gradients at their outputs.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<'a> {
    /// Places of the tensors among those of the weights; more than one where they give to the same sum.
    pub tensors: &'a [usize],
    /// Expert or head.
    pub slice: usize,
    /// A row for each token.
    pub rows: View<'a>,
}

/// Is shown the inputs of every matrix: those of one slice in the order of the tokens, different slices at the same time
/// on different threads.
pub trait Observer: Sync {
    /// Takes some rows of inputs.
    ///
    /// # Errors
    /// Ends the pass.
    fn see(&self, input: Inputs<'_>) -> Result<()>;

    /// Takes some rows of gradients, when a pass goes back.
    ///
    /// # Errors
    /// Ends the pass.
    fn see_gradients(&self, _gradients: Gradients<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether inputs are wanted that are made only to be shown: those of a head's values in latent attention.
    fn wants_mixed(&self) -> bool {
        true
    }

    /// Experts with fewer tokens than this are shown the tokens that their router scores highest among the others.
    fn least_tokens(&self) -> usize {
        0
    }

    /// Takes inputs of an expert that did not go there.
    ///
    /// # Errors
    /// Ends the pass.
    fn see_extra(&self, _input: Inputs<'_>) -> Result<()> {
        Ok(())
    }

    /// How many tokens each expert of a layer will be shown; `tensors` are the places of those that multiply them as they come.
    /// Called once, before the first of them and after all inputs of the router.
    ///
    /// # Errors
    /// Ends the pass.
    fn chosen(&self, _tensors: &[usize], _tokens: &[usize]) -> Result<()> {
        Ok(())
    }

    /// Bytes that it keeps and works with for one expert, of which a layer has `columns` of inputs and between its
    /// matrices; by them it is decided how many experts are computed at the same time.
    fn bytes_of_expert(&self, _expert: usize, _columns: [usize; 2]) -> u64 {
        0
    }

    /// All inputs of a slice of these tensors have been shown, and gradients at their outputs. Called for experts, and for
    /// whatever is quantized in turn.
    ///
    /// # Errors
    /// Ends the pass.
    fn seen(&self, _tensors: &[usize], _slice: usize) -> Result<()> {
        Ok(())
    }
}

/// An observer that records nothing.
#[derive(Clone, Copy, Debug)]
pub struct Ignore;

impl Observer for Ignore {
    fn see(&self, _input: Inputs<'_>) -> Result<()> {
        Ok(())
    }

    fn wants_mixed(&self) -> bool {
        false
    }
}
