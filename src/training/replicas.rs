//! A step's way through the network and back, spread over devices: each has the network, and takes a part of the batch.
//!
//! The loss looks at the embeddings of the whole batch. So all devices go forward, the embeddings are gathered where the
//! loss is computed, and each device goes backward from the gradient of its own embeddings. The sum of what they give is the
//! gradient of one device with the whole batch, but for batch normalisation, which goes by the statistics of each part.

use std::ops::Range;
use std::thread;

use tch::{Kind, Tensor, no_grad};

use super::TrainingError;
use super::config::TrainConfig;
use super::model::{Model, Setup};
use super::params::Params;

/// The network on a device, and its numbers there.
pub struct Replica {
    pub model: Model,
    pub params: Params,
}

/// The network on devices beside the first.
pub struct Replicas(Vec<Replica>);

/// What went forward on one device.
struct Part {
    /// `N x D` with their history: embeddings of its images, then those of its replayed chips.
    output: Tensor,
    images: Range<i64>,
    replay: Range<i64>,
    /// What the base makes of the replayed chips.
    before: Option<Tensor>,
}

/// What went forward on all devices.
pub struct Pass {
    parts: Vec<Part>,
    /// Embeddings of the images in their order, then of the replayed chips, on the first device; leaves, whose gradients
    /// [`Replicas::backward`] takes.
    pub embeddings: Tensor,
    /// What the base makes of the replayed chips, if there are any.
    pub before: Option<Tensor>,
}

impl Replicas {
    /// One for each device of `setup` but the first.
    pub fn new(config: &TrainConfig, setup: &Setup) -> Result<Self, TrainingError> {
        let others = setup.devices.iter().skip(1).map(|device| {
            let (model, params) = Model::new(config, setup.base, *device)?;
            Ok(Replica { model, params })
        });
        others.collect::<Result<_, _>>().map(Self)
    }

    /// Takes over the numbers of the first device.
    pub fn copy(&mut self, first: &Params) {
        no_grad(|| {
            for Replica { params, .. } in &mut self.0 {
                params.trained.detach().copy_(&first.trained);
                params.statistics.copy_(&first.statistics);
            }
        });
    }

    /// Embeds a batch; `first` is the network on the first device. A part has two images at least, for the statistics.
    pub fn forward(
        &mut self,
        (model, params): (&Model, &Params),
        images: &[&[u8]],
        replay: &[&[u8]],
        kind: Kind,
    ) -> Result<Pass, TrainingError> {
        let count = (1 + self.0.len()).min(images.len() / 2).max(1);
        let ranges = |length: usize| move |part: usize| length * part / count..length * (part + 1) / count;
        let (of_images, of_replay) = (ranges(images.len()), ranges(replay.len()));
        let part = |number: usize, model: &Model, params: &Params| {
            forward(model, params, (images, of_images(number)), (replay, of_replay(number)), kind)
        };
        let part = &part;
        let others = (1..count).zip(&mut self.0);
        let others = others.map(|(number, replica)| move || part(number, &replica.model, &replica.params));
        let parts: Result<Vec<Part>, _> = on_each(|| part(0, model, params), others).into_iter().collect();
        let parts = parts?;
        let device = params.device();
        let gathered = |chosen: &dyn Fn(&Part) -> Option<Tensor>| {
            let tensors: Vec<_> = parts.iter().filter_map(chosen).map(|tensor| tensor.to_device(device)).collect();
            (!tensors.is_empty()).then(|| Tensor::cat(&tensors, 0))
        };
        let split = |part: &Part, is_replay: bool| {
            let (start, rows) = if is_replay { (rows(&part.images), &part.replay) } else { (0, &part.images) };
            part.output.detach().narrow(0, start, rows.end - rows.start)
        };
        let embeddings = [false, true].map(|is_replay| gathered(&|part| Some(split(part, is_replay))));
        let embeddings = Tensor::cat(&embeddings.into_iter().flatten().collect::<Vec<_>>(), 0);
        let before = gathered(&|part| part.before.as_ref().map(Tensor::shallow_clone));
        Ok(Pass { embeddings: embeddings.set_requires_grad(true), before, parts })
    }

    /// The gradient of all that is trained, like [`Params::trained`], from the gradient of the pass's embeddings.
    pub fn backward(&mut self, params: &Params, pass: Pass, gradient: &Tensor) -> Tensor {
        let images = pass.parts.iter().map(|part| rows(&part.images)).sum::<i64>();
        let own = pass.parts.into_iter().map(|part| {
            let of = |start: i64, range: &Range<i64>| gradient.narrow(0, start + range.start, rows(range));
            let own = Tensor::cat(&[of(0, &part.images), of(images, &part.replay)], 0);
            (part.output, own)
        });
        let mut own = own.collect::<Vec<_>>().into_iter();
        let Some(first) = own.next() else { return params.trained.zeros_like() };
        let others = own.zip(&mut self.0).map(|(own, replica)| move || backward(&replica.params, own));
        let mut gradients = on_each(|| backward(params, first), others).into_iter();
        let sum = gradients.next().unwrap_or_else(|| params.trained.zeros_like());
        no_grad(|| gradients.fold(sum, |sum, gradient| sum + gradient.to_device(params.device())))
    }

    /// Gives all devices the numbers of the first after a step, and all of them the mean of the statistics.
    pub fn agree(&mut self, first: &Params) {
        if self.0.is_empty() {
            return;
        }
        no_grad(|| {
            let count = (1 + self.0.len()) as f64;
            let others = self.0.iter().map(|replica| replica.params.statistics.to_device(first.device()));
            let sum = others.fold(first.statistics.copy(), |sum, statistics| sum + statistics);
            first.statistics.shallow_clone().copy_(&(sum / count));
        });
        self.copy(first);
    }

    /// The largest difference of any number to that of the first device.
    #[cfg(test)]
    pub fn differ_by(&self, first: &Params) -> f64 {
        let largest = |a: &Tensor, b: &Tensor| (a.detach() - b.detach()).abs().max().double_value(&[]);
        let of = |replica: &Replica| {
            let params = &replica.params;
            largest(&params.trained, &first.trained).max(largest(&params.statistics, &first.statistics))
        };
        self.0.iter().map(of).fold(0.0, f64::max)
    }
}

fn rows(range: &Range<i64>) -> i64 {
    range.end - range.start
}

/// Of a part of the images and of the replayed chips.
fn forward(
    model: &Model,
    params: &Params,
    (images, of_images): (&[&[u8]], Range<usize>),
    (replay, of_replay): (&[&[u8]], Range<usize>),
    kind: Kind,
) -> Result<Part, TrainingError> {
    let all = [&images[of_images.clone()], &replay[of_replay.clone()]].concat();
    let input = model.input(&all, params.device())?;
    let output = model.forward(params, &input, true, kind)?;
    let before = match (model, of_replay.len() as i64) {
        (Model::Base(base), count @ 1..) => {
            let replayed = input.narrow(0, of_images.len() as i64, count);
            Some(no_grad(|| model.forward(&base.original, &replayed, false, kind))?)
        }
        _ => None,
    };
    let wide = |range: Range<usize>| range.start as i64..range.end as i64;
    Ok(Part { output, images: wide(of_images), replay: wide(of_replay), before })
}

/// On the device of `params`: the gradient of all that is trained, from that of what came out.
fn backward(params: &Params, (output, gradient): (Tensor, Tensor)) -> Tensor {
    let gradient = gradient.to_device(params.device());
    let trained: Vec<&Tensor> = params.trained().map(|param| &param.tensor).collect();
    // The gradient of this sum by the output is the one that was given.
    let sum = (output * gradient).sum(Kind::Float);
    no_grad(|| params.flat(&Tensor::run_backward(&[sum], &trained, false, false)))
}

/// Works on all devices at once, on the first one in this thread; what each gives, in order.
fn on_each<T: Send>(first: impl FnOnce() -> T, others: impl Iterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    thread::scope(|scope| {
        let others: Vec<_> = others.map(|work| scope.spawn(work)).collect();
        let mut results = vec![first()];
        let join =
            |other: thread::ScopedJoinHandle<T>| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        results.extend(others.into_iter().map(join));
        results
    })
}
