//! Dot products of bytes.

use super::ffi;

/// Values in a row beyond which a sum might not fit 32 bits (with room to spare).
const MAX_STRIDE: usize = 1 << 16;

/// The dot products of every row with every query, exact, on the calling thread.
///
/// - `rows`: R x `stride` values in -127..=127, each row padded with zeros; `stride` is a multiple of 64, at most 65,536.
/// - `row_sums`: R, the sum of each row's values.
/// - `queries`: Q x `stride` values in -127..=127, padded as the rows are.
/// - `out`: Q x R; `out[q * R + r]` becomes the product of row `r` with query `q`.
///
/// A matrix larger than the cache is best given in blocks of some hundred rows, in the order of memory, each with all
/// queries: rows are then read once, and `out` stays in the cache for the caller to look through. A value of -128 or a
/// wrong sum gives wrong numbers, which differ from one processor to the next.
///
/// # Panics
/// If the lengths do not agree with each other.
pub fn dots_i8(rows: &[i8], row_sums: &[i32], stride: usize, queries: &[i8], out: &mut [i32]) {
    let query_count = checked_query_count(rows, row_sums, stride, queries, out);
    // SAFETY: `rows` holds `row_sums.len()` rows of `stride` bytes, `queries` `query_count` of them, and `out` a number
    // for each pair (all checked above). The call writes to `out` alone and keeps no pointer; it reads past none of
    // them, though it may prefetch there, which cannot fault. It has kernels for any processor.
    unsafe {
        ffi::faceid_dots_i8(
            rows.as_ptr(),
            row_sums.as_ptr(),
            row_sums.len() as i64,
            stride as i64,
            queries.as_ptr(),
            query_count as i64,
            out.as_mut_ptr(),
        );
    }
}

fn checked_query_count(rows: &[i8], row_sums: &[i32], stride: usize, queries: &[i8], out: &[i32]) -> usize {
    assert!(stride.is_multiple_of(64) && (64..=MAX_STRIDE).contains(&stride), "a stride of {stride}");
    assert!(queries.len().is_multiple_of(stride), "{} values are no queries of {stride}", queries.len());
    let query_count = queries.len() / stride;
    assert_eq!(Some(rows.len()), row_sums.len().checked_mul(stride), "a sum for each row");
    assert_eq!(Some(out.len()), row_sums.len().checked_mul(query_count), "a product for each row and query");
    debug_assert!(!rows.contains(&i8::MIN) && !queries.contains(&i8::MIN), "-128 is out of range");
    query_count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `dots_i8` by one of the kernels of shim.h; false if this processor does not have it.
    fn dots_by(family: i32, rows: &[i8], sums: &[i32], stride: usize, queries: &[i8], out: &mut [i32]) -> bool {
        let query_count = checked_query_count(rows, sums, stride, queries, out) as i64;
        let (row_count, stride) = (sums.len() as i64, stride as i64);
        let (rows, sums, queries, out) = (rows.as_ptr(), sums.as_ptr(), queries.as_ptr(), out.as_mut_ptr());
        // SAFETY: as in `dots_i8`; a kernel that the processor lacks is not run.
        unsafe { ffi::faceid_dots_i8_by(family, rows, sums, row_count, stride, queries, query_count, out) }
    }

    fn sums_of(rows: &[i8], stride: usize) -> Vec<i32> {
        rows.chunks(stride).map(|row| row.iter().map(|&value| i32::from(value)).sum()).collect()
    }

    fn expected(rows: &[i8], stride: usize, queries: &[i8]) -> Vec<i32> {
        let product = |a: &[i8], b: &[i8]| a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
        queries.chunks(stride).flat_map(|query| rows.chunks(stride).map(move |row| product(row, query))).collect()
    }

    /// Compares every kernel, and the one that is chosen, with the plain loop; returns how many there are.
    fn check(rows: &[i8], stride: usize, queries: &[i8]) -> usize {
        let sums = sums_of(rows, stride);
        let expected = expected(rows, stride, queries);
        let mut out = vec![i32::MIN; expected.len()];
        dots_i8(rows, &sums, stride, queries, &mut out);
        assert_eq!(out, expected);
        let run = |family: &i32| {
            let mut out = vec![i32::MIN; expected.len()];
            let has_run = dots_by(*family, rows, &sums, stride, queries, &mut out);
            assert!(!has_run || out == expected, "kernel {family}, stride {stride}");
            has_run
        };
        (0..3).filter(run).count()
    }

    #[test]
    fn extremes_are_exact() {
        for (stride, row, query) in [(512, 127, 127), (512, -127, 127), (576, 127, -127), (1 << 16, -127, -127)] {
            assert!(check(&vec![row; 5 * stride], stride, &vec![query; 7 * stride]) > 0);
        }
    }

    #[test]
    fn every_tile_is_exact() {
        let made = |count: usize, seed: usize| -> Vec<i8> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729 + i / 251) % 255) as i8).map(|v| v.max(-127)).collect()
        };
        for row_count in 0..10 {
            for query_count in 0..34 {
                assert!(check(&made(row_count * 128, 1), 128, &made(query_count * 128, 2)) > 0);
            }
        }
    }

    #[test]
    fn an_unknown_kernel_is_not_run() {
        assert!(!dots_by(3, &[1; 64], &[64], 64, &[1; 64], &mut [0]));
    }

    #[test]
    #[should_panic(expected = "a product for each row and query")]
    fn a_short_output_is_refused() {
        dots_i8(&[0; 128], &[0; 2], 64, &[0; 128], &mut [0; 3]);
    }

    #[test]
    #[should_panic(expected = "a sum for each row")]
    fn a_missing_row_is_refused() {
        dots_i8(&[0; 127], &[0; 2], 64, &[0; 64], &mut [0; 2]);
    }

    #[test]
    #[should_panic(expected = "are no queries")]
    fn a_broken_query_is_refused() {
        dots_i8(&[0; 64], &[0], 64, &[0; 65], &mut [0]);
    }

    #[test]
    #[should_panic(expected = "a stride of 96")]
    fn an_odd_stride_is_refused() {
        dots_i8(&[0; 96], &[0], 96, &[0; 96], &mut [0]);
    }

    /// Mostly any value, often an extreme.
    fn value() -> impl Strategy<Value = i8> {
        prop_oneof![4 => -127i8..=127, 1 => Just(127), 1 => Just(-127)]
    }

    fn case() -> impl Strategy<Value = (usize, Vec<i8>, Vec<i8>)> {
        let strides = prop::sample::select(vec![64, 128, 512, 576]);
        let row_counts = prop::sample::select(vec![0, 1, 2, 3, 4, 7, 8, 13, 31]);
        let query_counts = prop::sample::select(vec![0, 1, 2, 3, 5, 6, 8, 12, 13, 32, 33]);
        (strides, row_counts, query_counts).prop_flat_map(|(stride, rows, queries)| {
            let values = |count: usize| prop::collection::vec(value(), count * stride);
            (Just(stride), values(rows), values(queries))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn products_equal_a_plain_loops((stride, rows, queries) in case()) {
            prop_assert!(check(&rows, stride, &queries) > 0);
        }
    }
}
