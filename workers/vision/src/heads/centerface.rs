//! CenterFace: a heat map of faces at a quarter of the input.
//!
//! Source: Star-Clouds/CenterFace, `prj-python/centerface.py`, `decode`.

use super::{Finder, Graph, OutputRow, Resolved, centred};

pub(super) const EXPECTED: &str =
    "heat map [batch, 1, H, W], scale and offset [batch, 2, H, W], landmarks [batch, 10, H, W]";

/// Pixels of the input per cell.
const STRIDE: usize = 4;

/// Heat map, scale, offset, landmarks: by their channels, the scale before the offset as the
/// reference exports them, whatever their names; or else, where channels are free, in this order.
pub(super) fn resolve(graph: &Graph<'_>) -> Resolved {
    let planes: Vec<(usize, i64)> = (0..)
        .zip(graph.rows)
        .filter_map(|(output, row)| match row.as_deref()? {
            &[channels, _, _] => Some((output, channels)),
            _ => None,
        })
        .collect();
    if let [(_, -1), (_, -1), (_, -1), (_, -1)] = planes[..] {
        return Some((planes.iter().map(|&(output, _)| output).collect(), 1));
    }
    let with = |channels: i64, nth: usize| {
        let outputs = planes.iter().filter(|plane| plane.1 == channels);
        outputs.map(|plane| plane.0).nth(nth)
    };
    Some((vec![with(1, 0)?, with(2, 0)?, with(2, 1)?, with(10, 0)?], 1))
}

/// Scale and offset are (y, x), the scale the logarithm of strides; landmarks are (y, x) as
/// fractions of the box from its corner.
pub(super) fn find(
    [heat, scale, offset, landmarks]: [&OutputRow<'_>; 4],
    finder: &mut Finder,
) -> Option<()> {
    let [columns, rows] = finder.size.map(|side| side / STRIDE);
    let n = rows * columns;
    let expected = [(heat, 1), (scale, 2), (offset, 2), (landmarks, 10)];
    if n == 0
        || expected
            .iter()
            .any(|(row, channels)| row.shape != [*channels, rows, columns])
    {
        return None;
    }
    let stride = STRIDE as f32;
    for (cell, &score) in heat.data.iter().enumerate() {
        if score < finder.score {
            continue;
        }
        let at = |row: &OutputRow<'_>, channel: usize| row.data[channel * n + cell];
        let height = at(scale, 0).exp() * stride;
        let width = at(scale, 1).exp() * stride;
        let x = ((cell % columns) as f32 + at(offset, 1) + 0.5) * stride;
        let y = ((cell / columns) as f32 + at(offset, 0) + 0.5) * stride;
        let rect = centred(x, y, width, height);
        let points = [0, 1, 2, 3, 4].map(|point| {
            [
                rect[0] + at(landmarks, 2 * point + 1) * width,
                rect[1] + at(landmarks, 2 * point) * height,
            ]
        });
        let are_numbers = points.as_flattened().iter().all(|side| side.is_finite());
        finder.push_face(0, score, rect, are_numbers.then_some(points));
    }
    Some(())
}
