//! How a training went, as a picture.

use std::path::Path;

use plotters::prelude::*;

use super::super::CliError;
use super::super::evaluate::plots::{Area, Drawn, draw};
use crate::training::{Record, Validation};

/// Points of a curve; of longer ones, means of neighbours are drawn.
const POINTS: usize = 300;

/// A curve, and from where to where its axis goes; `None` is from 0 to the largest value.
struct Panel {
    title: &'static str,
    points: Vec<(f64, f64)>,
    range: Option<(f64, f64)>,
}

/// Writes the curves of a run as an SVG file.
pub fn write(path: &Path, history: &[Record], validations: &[Validation]) -> Result<(), CliError> {
    let of = |title, range, figure: fn(&Record) -> f64| Panel { title, points: means(history, figure), range };
    let looks = validations.iter().map(|look| (look.step as f64, look.auc)).collect();
    let mut panels = vec![
        of("Loss", None, |record| record.loss),
        of("Share of active triplets", Some((0.0, 1.0)), |record| record.active),
        of("Length of the gradient", None, |record| record.gradient),
        of("Mean squared distance of two faces", None, |record| record.distance),
        of("Learning rate", None, |record| record.learning_rate),
        Panel { title: "AUC on validation subjects", points: looks, range: Some((0.5, 1.0)) },
    ];
    if history.iter().any(|record| record.drift > 0.0) {
        panels.push(of("Mean squared distance to the base", None, |record| record.drift));
    }
    let steps = history.last().map_or(1.0, |record| record.step as f64);
    draw(path, |area| {
        let places = area.split_evenly((panels.len().div_ceil(2), 2));
        places.iter().zip(&panels).try_for_each(|(place, panel)| draw_panel(place, panel, steps))
    })
}

/// Means of neighbouring steps.
fn means(history: &[Record], figure: fn(&Record) -> f64) -> Vec<(f64, f64)> {
    let together = history.len().div_ceil(POINTS).max(1);
    let mean = |records: &[Record]| {
        let count = records.len() as f64;
        (
            records.iter().map(|record| record.step as f64).sum::<f64>() / count,
            records.iter().map(figure).sum::<f64>() / count,
        )
    };
    history.chunks(together).map(mean).filter(|(_, value)| value.is_finite()).collect()
}

fn draw_panel<'a>(area: &Area<'a>, panel: &Panel, steps: f64) -> Drawn<'a> {
    let largest = panel.points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let (low, high) = panel.range.unwrap_or((0.0, if largest > 0.0 { largest * 1.05 } else { 1.0 }));
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 14))
        .margin(6)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..steps.max(1.0), low..high)?;
    chart.configure_mesh().max_light_lines(1).x_labels(6).y_labels(5).draw()?;
    chart.draw_series(LineSeries::new(panel.points.iter().copied(), BLUE.stroke_width(1)))?;
    chart.draw_series(
        panel.points.iter().filter(|_| panel.points.len() < 30).map(|point| Circle::new(*point, 2, BLUE.filled())),
    )?;
    Ok(())
}
