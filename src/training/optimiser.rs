//! From gradients to weights: AdamW, whose state can be saved, its schedule, and averaged weights.

use std::f64::consts::PI;

use tch::{Kind, Tensor, no_grad};

use super::config::Optimiser;
use super::params::{Param, Params, Role};

/// Of Kingma and Ba 2015, arXiv:1412.6980.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// The moments of AdamW, in long tensors like [`Params::trained`].
pub struct AdamW {
    pub first: Tensor,
    pub second: Tensor,
    /// 1 where weight decay applies, else 0.
    decays: Tensor,
}

impl AdamW {
    pub fn new(params: &Params) -> Self {
        let mark = |param: &Param| {
            let value = f64::from(u8::from(param.role == Role::Weight));
            Tensor::full(param.tensor.size(), value, (Kind::Float, params.device()))
        };
        let decays = params.flat(&params.trained().map(mark).collect::<Vec<_>>());
        Self { first: decays.zeros_like(), second: decays.zeros_like(), decays }
    }

    /// Changes the weights by their gradient, a tensor like [`Params::trained`]. `step` counts from 1. Returns the length of
    /// the gradient before it was clipped.
    pub fn step(
        &mut self,
        params: &Params,
        gradient: Tensor,
        settings: &Optimiser,
        learning_rate: f64,
        step: u64,
    ) -> f64 {
        no_grad(|| {
            let norm = gradient.square().sum(Kind::Double).double_value(&[]).sqrt();
            let shorten = (settings.gradient_clip / norm.max(1e-12)).min(1.0);
            let gradient = if shorten < 1.0 { gradient * shorten } else { gradient };
            let steps = i32::try_from(step).unwrap_or(i32::MAX);
            let (first_bias, second_bias) = (1.0 - BETAS.0.powi(steps), 1.0 - BETAS.1.powi(steps));
            let mut weights = params.trained.detach();
            if settings.weight_decay > 0.0 {
                let _ = weights.g_mul_(&(&self.decays * (-learning_rate * settings.weight_decay) + 1.0));
            }
            let _ = self.first.g_mul_scalar_(BETAS.0).g_add_(&(&gradient * (1.0 - BETAS.0)));
            let _ = self.second.g_mul_scalar_(BETAS.1).g_add_(&(gradient.square() * (1.0 - BETAS.1)));
            let scale = (&self.second / second_bias).sqrt() + EPSILON;
            let _ = weights.g_sub_(&(&self.first / scale * (learning_rate / first_bias)));
            norm
        })
    }
}

/// The learning rate of a step, which counts from 0: a linear rise, then a half cosine.
pub fn learning_rate(settings: &Optimiser, step: u64, steps: u64) -> f64 {
    let warm_up = (settings.warm_up * steps as f64).round() as u64;
    if step < warm_up {
        return settings.learning_rate * (step + 1) as f64 / warm_up as f64;
    }
    let part = (step - warm_up) as f64 / steps.saturating_sub(warm_up).max(1) as f64;
    let cosine = (1.0 + (PI * part.min(1.0)).cos()) / 2.0;
    settings.learning_rate * (settings.final_share + (1.0 - settings.final_share) * cosine)
}

/// Moves the averages, statistics included, towards the weights after `step`, which counts from 1. In the first steps
/// they keep less of themselves, or the start would weigh too much.
pub fn average(averages: &mut Params, params: &Params, decay: f64, step: u64) {
    let decay = decay.min(step as f64 / (step as f64 + 9.0));
    no_grad(|| {
        for (average, value) in
            [(&mut averages.trained, &params.trained), (&mut averages.statistics, &params.statistics)]
        {
            let _ = average.g_mul_scalar_(decay).g_add_(&(value.detach() * (1.0 - decay)));
        }
    });
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::super::params::{Collected, numbers};
    use super::*;

    #[test]
    fn one_step_by_hand() {
        let mut collected = Collected::default();
        let weight = collected.add("w".into(), Role::Weight, &[2], &[1.0, -2.0]);
        let bias = collected.add("b".into(), Role::Plain, &[1], &[1.0]);
        let params = collected.finish(Device::Cpu);
        let mut adam = AdamW::new(&params);
        let gradient = params.flat(&[Tensor::from_slice(&[3.0_f32, 4.0]), Tensor::from_slice(&[0.0_f32])]);
        let settings = Optimiser { weight_decay: 0.1, gradient_clip: 1.0, ..Optimiser::default() };
        assert!((adam.step(&params, gradient, &settings, 0.5, 1) - 5.0).abs() < 1e-6);
        // The first step of Adam has the length of the learning rate, whatever the gradient.
        let after = params.numbers(weight);
        assert!((after[0] - (0.95 - 0.5)).abs() < 1e-5 && (after[1] - (-1.9 - 0.5)).abs() < 1e-5, "{after:?}");
        assert!((numbers(&adam.first)[0] - 0.06).abs() < 1e-6, "the gradient was clipped to length 1");
        assert_eq!(params.numbers(bias), [1.0], "it has no gradient and does not decay");
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let settings = Optimiser { learning_rate: 1.0, warm_up: 0.2, final_share: 0.1, ..Optimiser::default() };
        let rates: Vec<f64> = (0..=20).map(|step| learning_rate(&settings, step, 20)).collect();
        assert_eq!((rates[0], rates[3], rates[4]), (0.25, 1.0, 1.0));
        assert!(rates[4..].is_sorted_by(|a, b| a > b));
        assert!((rates[12] - 0.55).abs() < 1e-9 && (rates[20] - 0.1).abs() < 1e-9);
    }

    #[test]
    fn averages_follow() {
        let mut collected = Collected::default();
        collected.add("w".into(), Role::Plain, &[1], &[1.0]);
        let params = collected.finish(Device::Cpu);
        let mut averages = params.detached_copy();
        let _ = no_grad(|| params.trained.detach().g_add_scalar_(1.0));
        average(&mut averages, &params, 0.9, 1);
        assert!((averages.numbers(0)[0] - 1.9).abs() < 1e-6);
        average(&mut averages, &params, 0.0, 2);
        assert_eq!(averages.numbers(0), [2.0]);
    }
}
