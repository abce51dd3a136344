//! SSD with boxes and scores decoded in the graph, before suppression.
//!
//! Source: Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, `vision/ssd/predictor.py`.

use super::{Finder, Graph, OutputRow, Resolved, best, classes_of};

pub(super) const EXPECTED: &str = "`scores` [batch, N, 1 + classes] and `boxes` [batch, N, 4]";

/// Scores first, then boxes: by their names, or else by the four sides of a box.
pub(super) fn resolve(graph: &Graph<'_>) -> Resolved {
    let classes = |output: usize| match graph.rows.get(output)?.as_deref()? {
        &[_, axis] => classes_of(axis, 1),
        _ => None,
    };
    let (first, _) = graph.find(|row| (row.len() == 2).then_some(()))?;
    let boxes = graph.named("box").or_else(|| {
        let is_box = |row: &Option<Vec<i64>>| matches!(row.as_deref(), Some([_, 4]));
        graph.rows.iter().rposition(is_box)
    })?;
    let scores = graph.named("score").or_else(|| {
        let others = (first..graph.rows.len()).filter(|&output| output != boxes);
        others.into_iter().find(|&output| classes(output).is_some())
    })?;
    match graph.rows.get(boxes)?.as_deref()? {
        &[_, 4 | -1] if scores != boxes => Some((vec![scores, boxes], classes(scores)?)),
        _ => None,
    }
}

/// Scores per class, the background first; boxes as x1, y1, x2, y2, fractions of the input.
pub(super) fn find(
    scores: &OutputRow<'_>,
    boxes: &OutputRow<'_>,
    finder: &mut Finder,
) -> Option<()> {
    let (&[n, axis], &[n_boxes, 4]) = (scores.shape, boxes.shape) else {
        return None;
    };
    if axis != 1 + finder.n_classes || n != n_boxes {
        return None;
    }
    let [width, height] = finder.size.map(|side| side as f32);
    let rects = boxes.data.as_chunks::<4>().0;
    for (scores, [x1, y1, x2, y2]) in scores.data.chunks_exact(axis).zip(rects) {
        let (class, score) = best(scores.iter().skip(1).copied());
        if score >= finder.score {
            let rect = [x1 * width, y1 * height, x2 * width, y2 * height];
            finder.push(class, score, rect);
        }
    }
    Some(())
}
