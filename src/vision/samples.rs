//! Samples as files store them become 8-bit RGB, a row at a time.

/// What the samples of a pixel mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    RgbAlpha,
    Cmyk,
    YCbCr,
}

impl Channels {
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb | Self::YCbCr => 3,
            Self::RgbAlpha | Self::Cmyk => 4,
        }
    }
}

/// Whether an image shows anything.
///
/// One whose pixels all say that they are invisible was written by someone who knows nothing of opacity; viewers show its
/// colours. Whether it is one, only its last pixel tells. So colours are written as they are until a pixel is visible: all
/// before it are white then, whatever their colours were.
#[derive(Default)]
pub(super) struct Opacity {
    seen: bool,
    begins: bool,
}

impl Opacity {
    /// Whether what was written before the last row has to become white.
    pub fn begins(&mut self) -> bool {
        std::mem::take(&mut self.begins)
    }

    fn note(&mut self, mut alphas: impl Iterator<Item = u8>) {
        if !self.seen && alphas.any(|alpha| alpha > 0) {
            (self.seen, self.begins) = (true, true);
        }
    }

    fn lay(&self, colour: [u8; 3], alpha: u8) -> [u8; 3] {
        if self.seen { on_white(colour, alpha) } else { colour }
    }
}

/// Writes a row whose samples take `N` bytes as 8-bit RGB into `out`, three bytes for each pixel.
///
/// Transparency is laid on white, as viewers do: what hides under transparent pixels is arbitrary, and a portrait that
/// was cut out was cut out to stand on a page.
pub(super) fn rgb_row<const N: usize>(
    row: &[u8],
    channels: Channels,
    opacity: &mut Opacity,
    out: &mut [u8],
    eight_bits: impl Fn([u8; N]) -> u8,
) {
    let samples = row.as_chunks::<N>().0;
    // What follows the row is not of it.
    let samples = &samples[..samples.len().min(out.len() / 3 * channels.count())];
    let out = out.as_chunks_mut::<3>().0.iter_mut();
    match channels {
        Channels::Grey => samples.iter().zip(out).for_each(|(grey, rgb)| *rgb = [eight_bits(*grey); 3]),
        Channels::GreyAlpha => {
            opacity.note(pixels::<2, N>(samples).map(|[_, alpha]| eight_bits(alpha)));
            pixels::<2, N>(samples).zip(out).for_each(|(pixel, rgb)| {
                let [grey, alpha] = pixel.map(&eight_bits);
                *rgb = opacity.lay([grey; 3], alpha);
            });
        }
        Channels::Rgb => pixels::<3, N>(samples).zip(out).for_each(|(pixel, rgb)| *rgb = pixel.map(&eight_bits)),
        Channels::RgbAlpha => {
            opacity.note(pixels::<4, N>(samples).map(|[.., alpha]| eight_bits(alpha)));
            pixels::<4, N>(samples).zip(out).for_each(|(pixel, rgb)| {
                let [red, green, blue, alpha] = pixel.map(&eight_bits);
                *rgb = opacity.lay([red, green, blue], alpha);
            });
        }
        Channels::YCbCr => pixels::<3, N>(samples).zip(out).for_each(|(pixel, rgb)| {
            let [luma, blue, red] = pixel.map(|sample| f32::from(eight_bits(sample)));
            let (blue, red) = (blue - 128.0, red - 128.0);
            // As in JPEG; a float becomes the nearest of 0..=255.
            *rgb =
                [1.402 * red, -0.344_136 * blue - 0.714_136 * red, 1.772 * blue].map(|add| (luma + add).round() as u8);
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
