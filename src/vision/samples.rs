//! Samples as files store them become 8-bit RGB, a row at a time.

/// What the samples of a pixel mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    RgbAlpha,
    Cmyk,
}

impl Channels {
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::RgbAlpha | Self::Cmyk => 4,
        }
    }
}

/// Writes a row whose samples take `N` bytes as 8-bit RGB into `out`, three bytes for each pixel.
///
/// Transparency is laid on white, as viewers do: what hides under transparent pixels is arbitrary, and a portrait that
/// was cut out was cut out to stand on a page.
pub(super) fn rgb_row<const N: usize>(
    row: &[u8],
    channels: Channels,
    out: &mut [u8],
    eight_bits: impl Fn([u8; N]) -> u8,
) {
    let samples = row.as_chunks::<N>().0;
    let out = out.as_chunks_mut::<3>().0.iter_mut();
    match channels {
        Channels::Grey => samples.iter().zip(out).for_each(|(grey, rgb)| *rgb = [eight_bits(*grey); 3]),
        Channels::GreyAlpha => pixels::<2, N>(samples).zip(out).for_each(|(pixel, rgb)| {
            let [grey, alpha] = pixel.map(&eight_bits);
            *rgb = on_white([grey; 3], alpha);
        }),
        Channels::Rgb => pixels::<3, N>(samples).zip(out).for_each(|(pixel, rgb)| *rgb = pixel.map(&eight_bits)),
        Channels::RgbAlpha => pixels::<4, N>(samples).zip(out).for_each(|(pixel, rgb)| {
            let [red, green, blue, alpha] = pixel.map(&eight_bits);
            *rgb = on_white([red, green, blue], alpha);
        }),
        Channels::Cmyk => pixels::<4, N>(samples).zip(out).for_each(|(pixel, rgb)| {
            let [cyan, magenta, yellow, black] = pixel.map(|sample| f32::from(eight_bits(sample)));
            *rgb = [cyan, magenta, yellow].map(|ink| ((255.0 - ink) * (1.0 - black / 255.0)) as u8);
        }),
    }
}

fn pixels<const CHANNELS: usize, const N: usize>(samples: &[[u8; N]]) -> impl Iterator<Item = [[u8; N]; CHANNELS]> {
    samples.as_chunks::<CHANNELS>().0.iter().copied()
}

/// A colour of this opacity (255: opaque) in front of white.
pub(super) fn on_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    colour.map(|value| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// 16 bits rounded to 8.
pub(super) fn rounded(sample: u16) -> u8 {
    ((u32::from(sample) + 128) / 257) as u8
}

/// Of 0..1; what is no number is white, as in browsers.
pub(super) fn from_float(sample: f32) -> u8 {
    let sample = if sample.is_nan() { 1.0 } else { sample.clamp(0.0, 1.0) };
    (sample * 255.0).round() as u8
}
