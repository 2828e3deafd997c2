//! The type for a tensor whose rows do not divide into the wanted type's blocks, as llama-quantize chooses it.

use quant_kernels::Format::{self, F16};

/// The wanted type, or the nearest that rows of `columns` weights fit.
pub fn fitting(wanted: Format, columns: u64) -> Format {
    if wanted.fits(columns) {
        return wanted;
    }
    let substitute = wanted.substitute();
    if substitute.fits(columns) { substitute } else { F16 }
}

#[cfg(test)]
mod tests {
    use quant_kernels::Format::*;

    use super::*;

    #[test]
    fn rows_of_128_leave_the_super_blocks() {
        assert_eq!(fitting(Q6_K, 128), Q8_0);
        assert_eq!(fitting(IQ1_S, 128), IQ4_NL);
        assert_eq!(fitting(Q4_K, 128), Q5_0);
        assert_eq!(fitting(Q4_K, 256), Q4_K);
        assert_eq!(fitting(Q8_0, 128), Q8_0);
        assert_eq!(fitting(Q6_K, 100), F16);
    }
}
