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
    let pixels = samples.chunks_exact(channels.count()).zip(out.as_chunks_mut::<3>().0);
    match channels {
        Channels::Grey => pixels.for_each(|(pixel, rgb)| *rgb = [eight_bits(pixel[0]); 3]),
        Channels::GreyAlpha => {
            pixels.for_each(|(pixel, rgb)| *rgb = on_white([eight_bits(pixel[0]); 3], eight_bits(pixel[1])));
        }
        Channels::Rgb => pixels.for_each(|(pixel, rgb)| *rgb = [0, 1, 2].map(|i| eight_bits(pixel[i]))),
        Channels::RgbAlpha => pixels.for_each(|(pixel, rgb)| {
            *rgb = on_white([0, 1, 2].map(|i| eight_bits(pixel[i])), eight_bits(pixel[3]));
        }),
        Channels::Cmyk => pixels.for_each(|(pixel, rgb)| {
            let light = 1.0 - f32::from(eight_bits(pixel[3])) / 255.0;
            *rgb = [0, 1, 2].map(|i| ((255.0 - f32::from(eight_bits(pixel[i]))) * light) as u8);
        }),
    }
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
