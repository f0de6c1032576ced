//! From gradients to weights: AdamW, whose state can be saved, its schedule, and averaged weights.

use std::f64::consts::PI;

use tch::{Kind, Tensor, no_grad};

use super::config::Optimiser;
use super::params::{Params, Role};

/// Of Kingma and Ba 2015, arXiv:1412.6980.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// The moments of AdamW, one tensor for each trained parameter.
pub struct AdamW {
    pub first: Vec<Tensor>,
    pub second: Vec<Tensor>,
}

impl AdamW {
    pub fn new(params: &Params) -> Self {
        Self { first: params.zeros(), second: params.zeros() }
    }

    /// Changes the weights by their gradients, which are forgotten. `step` counts from 1. Returns the length of the
    /// gradient before it was clipped.
    pub fn step(&mut self, params: &Params, settings: &Optimiser, learning_rate: f64, step: u64) -> f64 {
        no_grad(|| {
            let squares = params.trained().map(|param| param.tensor.grad().square().sum(Kind::Double));
            let norm = squares.fold(0.0, |sum, square| sum + square.double_value(&[])).sqrt();
            let shorten = (settings.gradient_clip / norm.max(1e-12)).min(1.0);
            let steps = i32::try_from(step).unwrap_or(i32::MAX);
            let (first_bias, second_bias) = (1.0 - BETAS.0.powi(steps), 1.0 - BETAS.1.powi(steps));
            for ((param, first), second) in params.trained().zip(&mut self.first).zip(&mut self.second) {
                let mut gradient = param.tensor.grad();
                let mut weights = param.tensor.detach();
                if shorten < 1.0 {
                    let _ = gradient.g_mul_scalar_(shorten);
                }
                if param.role == Role::Weight && settings.weight_decay > 0.0 {
                    let _ = weights.g_mul_scalar_(1.0 - learning_rate * settings.weight_decay);
                }
                let _ = first.g_mul_scalar_(BETAS.0).g_add_(&(&gradient * (1.0 - BETAS.0)));
                let _ = second.g_mul_scalar_(BETAS.1).g_add_(&(gradient.square() * (1.0 - BETAS.1)));
                let scale = (&*second / second_bias).sqrt() + EPSILON;
                let _ = weights.g_sub_(&(&*first / scale * (learning_rate / first_bias)));
                let _ = gradient.zero_();
            }
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
        for (average, param) in averages.0.iter_mut().zip(&params.0) {
            let _ = average.tensor.g_mul_scalar_(decay).g_add_(&(param.tensor.detach() * (1.0 - decay)));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::params::numbers;
    use super::*;

    #[test]
    fn one_step_by_hand() {
        let mut params = Params::default();
        let weight = params.add("w".into(), Role::Weight, &[2], &[1.0, -2.0]);
        let mut adam = AdamW::new(&params);
        (params.get(weight) * Tensor::from_slice(&[3.0_f32, 4.0])).sum(Kind::Float).backward();
        let settings = Optimiser { weight_decay: 0.1, gradient_clip: 1.0, ..Optimiser::default() };
        assert!((adam.step(&params, &settings, 0.5, 1) - 5.0).abs() < 1e-6);
        // The first step of Adam has the length of the learning rate, whatever the gradient.
        let after = params.numbers(weight);
        assert!((after[0] - (0.95 - 0.5)).abs() < 1e-5 && (after[1] - (-1.9 - 0.5)).abs() < 1e-5, "{after:?}");
        assert!((numbers(&adam.first[0])[0] - 0.06).abs() < 1e-6, "the gradient was clipped to length 1");
        assert_eq!(numbers(&params.get(weight).grad()), [0.0, 0.0]);
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
        let mut params = Params::default();
        params.add("w".into(), Role::Plain, &[1], &[1.0]);
        let mut averages = params.detached_copy();
        let _ = no_grad(|| params.0[0].tensor.detach().g_add_scalar_(1.0));
        average(&mut averages, &params, 0.9, 1);
        assert!((averages.numbers(0)[0] - 1.9).abs() < 1e-6);
        average(&mut averages, &params, 0.0, 2);
        assert_eq!(averages.numbers(0), [2.0]);
    }
}
