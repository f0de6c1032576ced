//! Rows of bytes in the memory of a device, and the scan of them that finds what may be most similar to some queries.
//!
//! Products are integers, so exact on every device, and bounds are those that the caller gives; a scan on a GPU leaves open
//! no less than one on the processor.

use tch::{Device, IndexOp, Kind, Tensor};

use super::error::NetworkError;

/// Rows are scanned in multiples of this; cuBLAS takes 8-bit matrices in multiples of 8 only.
const LANES: usize = 64;

/// Of so many rows the most similar one stands for all where the bar is set, which leaves less to sort.
const GROUP: i64 = 16;

/// The fewest queries, padded with zeros, that cuBLAS multiplies 8-bit matrices for.
const LEAST_QUERIES: usize = 32;

/// The error of a row that is none: its similarity may be anything, so it sets no bar.
const NO_ROW: f32 = 1e30;

/// Rows on a device.
pub struct DeviceRows {
    device: Device,
    stride: usize,
    len: usize,
    /// Capacity x `stride`, 8-bit integers.
    rows: Tensor,
    /// Capacity.
    scales: Tensor,
    /// Capacity.
    errors: Tensor,
}

/// A query of a scan.
#[derive(Debug, Clone, Copy)]
pub struct RowQuery {
    /// The similarity of a row is about its product times its scale times this.
    pub scale: f32,
    /// It is off by `bound.0 + bound.1 * error of the row` at most.
    pub bound: (f32, f32),
    /// How many rows are wanted.
    pub wanted: usize,
    /// What is asked for at least.
    pub floor: f32,
}

/// A row that may be among those that are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearRow {
    /// Which query.
    pub query: usize,
    /// Which of the blocks, and which row there.
    pub block: usize,
    pub row: usize,
    /// What its similarity is at most.
    pub upper: f32,
}

impl DeviceRows {
    /// Room for `capacity` rows of `stride` bytes, a multiple of 64.
    pub fn new(device: Device, stride: usize, capacity: usize) -> Result<Self, NetworkError> {
        let capacity = capacity.next_multiple_of(LANES) as i64;
        Ok(Self {
            device,
            stride,
            len: 0,
            rows: Tensor::f_zeros([capacity, stride as i64], (Kind::Int8, device))?,
            scales: Tensor::f_zeros([capacity], (Kind::Float, device))?,
            errors: Tensor::f_full([capacity], f64::from(NO_ROW), (Kind::Float, device))?,
        })
    }

    /// Writes rows from the number `first` on: values of -127..=127, with a scale and an error each.
    pub fn write(&mut self, first: usize, rows: &[i8], scales: &[f32], errors: &[f32]) -> Result<(), NetworkError> {
        let (first, count) = (first as i64, scales.len() as i64);
        let rows = Tensor::from_slice(rows).f_view([count, self.stride as i64])?;
        self.rows.f_narrow(0, first, count)?.f_copy_(&rows)?;
        self.scales.f_narrow(0, first, count)?.f_copy_(&Tensor::from_slice(scales))?;
        self.errors.f_narrow(0, first, count)?.f_copy_(&Tensor::from_slice(errors))?;
        Ok(())
    }

    /// Says that the first `len` rows count.
    pub fn set_len(&mut self, len: usize) -> Result<(), NetworkError> {
        let none = len.next_multiple_of(LANES) - len;
        _ = self.errors.f_narrow(0, len as i64, none as i64)?.f_fill_(f64::from(NO_ROW))?;
        self.len = len;
        Ok(())
    }
}

/// Scans blocks of rows, all on one device, for all queries. What is wanted of each is among what comes back.
///
/// - `query_rows`: a row for each of the queries, of as many values as the rows of the blocks have.
pub fn scan_rows(
    blocks: &[&DeviceRows],
    query_rows: &[i8],
    queries: &[RowQuery],
) -> Result<Vec<NearRow>, NetworkError> {
    let Some(first) = blocks.first() else { return Ok(Vec::new()) };
    let mut scan = Scan::new(first.device, first.stride, query_rows, queries)?;
    let mut near = Vec::new();
    for (number, block) in blocks.iter().enumerate().filter(|(_, block)| block.len > 0) {
        let (places, uppers) = scan.block(block)?;
        let places = Vec::<i64>::try_from(places.f_flatten(0, 1)?)?;
        let uppers = Vec::<f32>::try_from(uppers)?;
        near.extend(
            places.chunks_exact(2).zip(uppers).filter(|(place, _)| (place[1] as usize) < block.len).map(
                |(place, upper)| NearRow { query: place[0] as usize, block: number, row: place[1] as usize, upper },
            ),
        );
    }
    // What seemed near in one block may be far behind what the next ones held.
    let bars = Vec::<f32>::try_from(scan.bars.f_flatten(0, 1)?)?;
    near.retain(|near| near.upper >= bars[near.query]);
    Ok(near)
}

/// Queries of a scan, and how far it is. A column has a number for each query.
struct Scan {
    /// At least [`LEAST_QUERIES`] x stride.
    queries: Tensor,
    scales: Tensor,
    bounds: (Tensor, Tensor),
    /// Where in `best` the bar of each query is.
    last_wanted: Tensor,
    floors: Tensor,
    /// The highest lower bounds so far, in order, as many as the query that wants most wants.
    best: Tensor,
    /// Rows below these cannot belong to the answers.
    bars: Tensor,
}

impl Scan {
    fn new(device: Device, stride: usize, rows: &[i8], queries: &[RowQuery]) -> Result<Self, NetworkError> {
        let column = |of: &dyn Fn(&RowQuery) -> f32| {
            Tensor::from_slice(&queries.iter().map(of).collect::<Vec<_>>()).f_view([-1, 1])?.f_to(device)
        };
        // Of whom nothing is wanted, nothing is near.
        let floors = column(&|query| if query.wanted == 0 { f32::INFINITY } else { query.floor })?;
        let last: Vec<i64> = queries.iter().map(|query| query.wanted.saturating_sub(1) as i64).collect();
        let most = last.iter().max().map_or(1, |last| last + 1);
        let count = queries.len();
        let mut padded = rows.to_vec();
        padded.resize(count.max(LEAST_QUERIES) * stride, 0);
        Ok(Self {
            queries: Tensor::from_slice(&padded).f_view([-1, stride as i64])?.f_to(device)?,
            scales: column(&|query| query.scale)?,
            bounds: (column(&|query| query.bound.0)?, column(&|query| query.bound.1)?),
            last_wanted: Tensor::from_slice(&last).f_view([-1, 1])?.f_to(device)?,
            best: Tensor::f_full([count as i64, most], f64::NEG_INFINITY, (Kind::Float, device))?,
            bars: floors.shallow_clone(),
            floors,
        })
    }

    /// What is near in a block: query and row, and the upper bound, of each.
    fn block(&mut self, block: &DeviceRows) -> Result<(Tensor, Tensor), NetworkError> {
        let count = self.scales.size()[0];
        let len = block.len.next_multiple_of(LANES) as i64;
        let products = self
            .queries
            .f_internal_int_mm(&block.rows.f_narrow(0, 0, len)?.f_transpose(0, 1)?)?
            .f_narrow(0, 0, count)?;
        let estimates = products.f_to_kind(Kind::Float)?.f_mul(&block.scales.i(..len))?.f_mul(&self.scales)?;
        let bounds = block.errors.i(..len).f_mul(&self.bounds.1)?.f_add(&self.bounds.0)?;
        let lower = estimates.f_sub(&bounds)?;
        let foremost = lower.f_view([count, len / GROUP, GROUP])?.f_amax([-1_i64].as_slice(), false)?;
        let most = self.best.size()[1];
        (self.best, _) = Tensor::f_cat(&[&self.best, &foremost], 1)?.f_topk(most, 1, true, true)?;
        self.bars = self.best.f_gather(1, &self.last_wanted, false)?.f_maximum(&self.floors)?;
        let upper = estimates.f_add(&bounds)?;
        let near = upper.f_ge_tensor(&self.bars)?;
        Ok((near.f_nonzero()?, upper.f_masked_select(&near)?))
    }
}
