//! The figures as pictures: SVG files, without fonts of their own.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::CliError;
use crate::evaluation::{Comparisons, Curve, Estimate, Growth, Verification};

const SIZE: (u32, u32) = (720, 540);
const GENUINE: RGBColor = RGBColor(31, 119, 180);
const IMPOSTOR: RGBColor = RGBColor(214, 39, 40);

/// Of the rates in the plot of growing galleries.
const COLOURS: [RGBColor; 4] = [GENUINE, RGBColor(44, 160, 44), RGBColor(255, 127, 14), IMPOSTOR];

/// Points of the DET curve, and bins of the histogram (0.02 wide).
const POINTS: usize = 2000;
const BINS: usize = 100;

/// Writes det.svg, histogram.svg and, if it was measured, growth.svg into `folder`, which is made if need be.
pub fn write(
    folder: &Path,
    comparisons: &Comparisons,
    measured: &Verification,
    growth: Option<&Growth>,
) -> Result<(), CliError> {
    std::fs::create_dir_all(folder).map_err(CliError::io(format!("cannot create {}", folder.display())))?;
    let curve = Curve::of(comparisons, POINTS, BINS);
    let threshold = f64::from(measured.at_threshold.threshold);
    let operating = (measured.at_threshold.fmr.value, measured.at_threshold.fnmr.value);
    let least = |pairs: usize| 0.5 / pairs as f64;
    let floors = (least(comparisons.impostor()), least(comparisons.genuine()));
    draw(&folder.join("det.svg"), |area| det(area, &curve, floors, threshold, operating))?;
    draw(&folder.join("histogram.svg"), |area| histogram(area, &curve, threshold))?;
    match growth {
        Some(growth) => draw(&folder.join("growth.svg"), |area| growing(area, growth)),
        None => Ok(()),
    }
}

pub(in crate::cli) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(in crate::cli) type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Writes what `plot` draws as an SVG file.
pub(in crate::cli) fn draw(path: &Path, plot: impl for<'a> Fn(&Area<'a>) -> Drawn<'a>) -> Result<(), CliError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let drawn = area.fill(&WHITE).and_then(|()| plot(&area)).and_then(|()| area.present());
        drawn.map_err(|error| CliError::Render(error.to_string()))?;
    }
    std::fs::write(path, text).map_err(CliError::io(format!("cannot write {}", path.display())))
}

/// FNMR over FMR, both logarithmic. A rate of which no error was seen lies on the edge, at half a pair.
fn det<'a>(area: &Area<'a>, curve: &Curve, floors: (f64, f64), threshold: f64, operating: (f64, f64)) -> Drawn<'a> {
    let mut chart = ChartBuilder::on(area)
        .caption("Detection error trade-off", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(65)
        .build_cartesian_2d((floors.0..1.0).log_scale(), (floors.1..1.0).log_scale())?;
    let rate = |rate: &f64| format!("{rate:e}");
    chart
        .configure_mesh()
        .x_desc("false match rate")
        .y_desc("false non-match rate")
        .x_label_formatter(&rate)
        .y_label_formatter(&rate)
        .draw()?;
    let inside = |(fmr, fnmr): (f64, f64)| (fmr.max(floors.0), fnmr.max(floors.1));
    chart.draw_series(LineSeries::new(curve.det.iter().copied().map(inside), GENUINE.stroke_width(2)))?;
    let point = inside(operating);
    chart.draw_series([Circle::new(point, 4, IMPOSTOR.filled())])?;
    let label = Text::new(format!("  threshold {threshold:.3}"), point, ("sans-serif", 14).into_font());
    chart.draw_series([label])?;
    Ok(())
}

/// FNIR over the number of people in the gallery, which is logarithmic: a line with its interval for each FPIR.
fn growing<'a>(area: &Area<'a>, growth: &Growth) -> Drawn<'a> {
    let sizes: Vec<f64> = growth.sizes.iter().map(|size| size.people as f64).collect();
    let (least, most) = (sizes.first().unwrap_or(&1.0) * 0.85, sizes.last().unwrap_or(&1.0) * 1.15);
    let fnirs = growth.sizes.iter().flat_map(|size| &size.at_fpir).filter_map(|point| point.fnir);
    let highest = fnirs.map(|fnir| fnir.high).fold(0.001, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption("Enrolled people who are missed, by size of the gallery", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(65)
        .build_cartesian_2d((least..most).log_scale().with_key_points(sizes), 0.0..highest)?;
    let mut mesh = chart.configure_mesh();
    mesh.max_light_lines(1).x_desc("people in the gallery, one photo each").y_desc("FNIR");
    mesh.x_label_formatter(&|people| format!("{people:.0}")).y_label_formatter(&|rate| format!("{rate:.3}")).draw()?;
    let rates = growth.sizes.first().map_or(&[][..], |size| &size.at_fpir);
    for (n, rate) in rates.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let points: Vec<(f64, Estimate)> =
            growth.sizes.iter().filter_map(|size| Some((size.people as f64, size.at_fpir[n].fnir?))).collect();
        if points.is_empty() {
            continue;
        }
        let above = points.iter().map(|(people, fnir)| (*people, fnir.high));
        let below = points.iter().rev().map(|(people, fnir)| (*people, fnir.low));
        chart.draw_series([Polygon::new(above.chain(below).collect::<Vec<_>>(), colour.mix(0.12))])?;
        let line = points.iter().map(|(people, fnir)| (*people, fnir.value));
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(format!("FPIR = {:e}", rate.fpir))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2)));
        chart.draw_series(line.map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()
}

/// How similar genuine and impostor pairs are, each kind 1 in sum.
fn histogram<'a>(area: &Area<'a>, curve: &Curve, threshold: f64) -> Drawn<'a> {
    let width = 2.0 / curve.bins.len() as f64;
    let highest = curve.bins.iter().map(|(genuine, impostor)| genuine.max(*impostor)).fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption("Similarities", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(65)
        .build_cartesian_2d(-1.0..1.0, 0.0..highest)?;
    chart.configure_mesh().max_light_lines(1).x_desc("similarity").y_desc("share of the pairs").draw()?;
    for (name, colour, of) in
        [("same person", GENUINE, (|bin| bin.0) as fn(&(f64, f64)) -> f64), ("different people", IMPOSTOR, |bin| bin.1)]
    {
        let bars = (curve.bins.iter().enumerate()).filter(|(_, bin)| of(bin) > 0.0).map(|(n, bin)| {
            let left = n as f64 * width - 1.0;
            Rectangle::new([(left, 0.0), (left + width, of(bin))], colour.mix(0.5).filled())
        });
        chart
            .draw_series(bars)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.mix(0.5).filled()));
    }
    chart
        .draw_series(LineSeries::new([(threshold, 0.0), (threshold, highest)], BLACK.stroke_width(1)))?
        .label(format!("threshold {threshold:.3}"))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 12, y)], BLACK));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
