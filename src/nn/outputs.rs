//! Which output of an embedder is the embedding.

use tch::Tensor;

use super::error::NetworkError;

/// Names that a message holds; nobody reads more.
const MAX_NAMED: usize = 8;

/// The one output that has a row of numbers for each image, by its place, and its rows: `N x D`.
///
/// Files may give more than that: AdaFace (Kim et al. 2022, arXiv:2204.00964) and MagFace (Meng et al. 2021, arXiv:2103.06627)
/// are exported with the length of each embedding, `N x 1`. Some networks leave their last spatial dimensions,
/// `N x D x 1 x 1`. `names` are for messages.
pub fn embeddings(outputs: &[Tensor], names: &[String], images: usize) -> Result<(usize, Tensor), NetworkError> {
    let rows = outputs.iter().enumerate().filter_map(|(place, output)| Some((place, dimension(output, images)?)));
    // One number is an embedding only if there is nothing else.
    let found: Vec<_> = rows.filter(|(_, dimension)| *dimension > 1 || outputs.len() == 1).collect();
    match (&found[..], outputs) {
        ([(place, dimension)], _) => Ok((*place, outputs[*place].f_reshape([images as i64, *dimension])?)),
        ([], [output]) => Err(contract(format!("{images} chips give an output of shape {:?}", output.size()))),
        ([], _) => Err(contract(format!(
            "none of its outputs has a row of numbers for each chip; {images} chips give {}",
            described(outputs, names)
        ))),
        _ => Err(contract(format!(
            "several of its outputs may be the embedding: {images} chips give {}; export it with one of them",
            described(outputs, names)
        ))),
    }
}

/// The length of the rows, if there is one for each image.
fn dimension(output: &Tensor, images: usize) -> Option<i64> {
    match output.size()[..] {
        [n, dimension, ref rest @ ..] if n == images as i64 && dimension > 0 && rest.iter().all(|side| *side == 1) => {
            Some(dimension)
        }
        _ => None,
    }
}

/// Names and shapes.
fn described(outputs: &[Tensor], names: &[String]) -> String {
    let one = |(place, output): (usize, &Tensor)| match names.get(place) {
        Some(name) => format!("{name} {:?}", output.size()),
        None => format!("{:?}", output.size()),
    };
    let mut named: Vec<String> = outputs.iter().enumerate().take(MAX_NAMED).map(one).collect();
    if outputs.len() > MAX_NAMED {
        named.push(format!("{} more", outputs.len() - MAX_NAMED));
    }
    named.join(", ")
}

fn contract(reason: String) -> NetworkError {
    NetworkError::Contract { role: "embedder", reason }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn chosen(shapes: &[&[i64]]) -> Result<(usize, Vec<i64>), String> {
        let outputs: Vec<_> = shapes.iter().map(|shape| Tensor::zeros(*shape, (Kind::Float, Device::Cpu))).collect();
        let names: Vec<_> = (0..shapes.len()).map(|place| format!("out{place}")).collect();
        let (place, rows) = embeddings(&outputs, &names, 2).map_err(|error| error.to_string())?;
        Ok((place, rows.size()))
    }

    #[test]
    fn the_embedding_is_known_by_its_shape() {
        assert_eq!(chosen(&[&[2, 512]]), Ok((0, vec![2, 512])));
        assert_eq!(chosen(&[&[2, 1], &[2, 512]]), Ok((1, vec![2, 512])));
        assert_eq!(chosen(&[&[2, 128, 1, 1], &[2, 1], &[2, 64, 7, 7], &[1, 9]]), Ok((0, vec![2, 128])));
        assert_eq!(chosen(&[&[2, 1]]), Ok((0, vec![2, 1])));
    }

    #[test]
    fn what_could_be_several_or_none_is_named() {
        let several = chosen(&[&[2, 512], &[2, 1], &[2, 256]]).unwrap_err();
        assert!(several.contains("several of its outputs") && several.contains("out2 [2, 256]"), "{several}");
        let none = chosen(&[&[2, 9, 4], &[2, 9, 2]]).unwrap_err();
        assert!(none.contains("none of its outputs") && none.contains("out0 [2, 9, 4], out1 [2, 9, 2]"), "{none}");
        assert!(chosen(&[&[1, 512]]).unwrap_err().contains("2 chips give an output of shape [1, 512]"));
        assert!(chosen(&[&[3, 4, 5][..]; 20]).unwrap_err().ends_with("12 more"));
    }
}
