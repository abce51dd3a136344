//! FastestDet: one anchor-free scale.
//!
//! Source: dog-qiuqiu/FastestDet, `utils/tool.py`, `handle_preds`.

use super::{Finder, Graph, OutputRow, Resolved, best, centred, classes_of};

pub(super) const EXPECTED: &str = "[batch, 5 + classes, height, width]";

pub(super) fn resolve(graph: &Graph<'_>) -> Resolved {
    let (output, classes) = graph.find(|row| match *row {
        [axis, _, _] => classes_of(axis, 5),
        _ => None,
    })?;
    Some((vec![output], classes))
}

/// Planes over the cells: objectness, dx, dy, width, height, classes. The score is
/// objectness^0.6 × class^0.4.
pub(super) fn find(row: &OutputRow<'_>, finder: &mut Finder) -> Option<()> {
    let &[axis, rows, columns] = row.shape else {
        return None;
    };
    let n = rows * columns;
    if axis != 5 + finder.n_classes || n == 0 {
        return None;
    }
    let [width, height] = finder.size.map(|side| side as f32);
    let plane = |index: usize| row.data.get(index * n..(index + 1) * n);
    let (dx, dy, widths, heights) = (plane(1)?, plane(2)?, plane(3)?, plane(4)?);
    let classes = row.data.get(5 * n..)?;
    // A class is at most 1, so objectness alone must reach this.
    let least = finder.score.powf(1.0 / 0.6);
    for (cell, &objectness) in plane(0)?.iter().enumerate() {
        if objectness < least {
            continue;
        }
        let (class, score) = best(classes.iter().skip(cell).step_by(n).copied());
        let score = objectness.powf(0.6) * score.powf(0.4);
        if score >= finder.score {
            let rect = centred(
                ((cell % columns) as f32 + dx[cell].tanh()) / columns as f32 * width,
                ((cell / columns) as f32 + dy[cell].tanh()) / rows as f32 * height,
                sigmoid(widths[cell]) * width,
                sigmoid(heights[cell]) * height,
            );
            finder.push(class, score, rect);
        }
    }
    Some(())
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
