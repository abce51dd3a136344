//! Non-maximum suppression: of boxes of a class that overlap, the best.

use crate::heads::Detection;
use crate::selection::MAX_PREDICTIONS;

/// Keeps of each class the boxes that no better kept box overlaps by more than `iou`; returns the
/// best `top_k` of all classes, best first.
///
/// Only the best [`MAX_PREDICTIONS`] candidates are looked at, so that a request for every box of
/// a large model takes milliseconds. Scores are finite; ties go to the earlier candidate.
pub(crate) fn suppress(mut candidates: Vec<Detection>, iou: f32, top_k: usize) -> Vec<Detection> {
    let better = |a: &Detection, b: &Detection| b.score.total_cmp(&a.score);
    if candidates.len() > MAX_PREDICTIONS {
        candidates.select_nth_unstable_by(MAX_PREDICTIONS, better);
        candidates.truncate(MAX_PREDICTIONS);
    }
    candidates.sort_by(better);
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in candidates {
        if kept.len() == top_k {
            break;
        }
        let is_suppressed = kept.iter().any(|better| {
            better.class == candidate.class && overlap(&better.rect, &candidate.rect) > iou
        });
        if !is_suppressed {
            kept.push(candidate);
        }
    }
    kept
}

/// Returns intersection over union, 0 to 1, of two boxes (x1, y1, x2, y2); 0 where it has none.
pub(crate) fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |[x1, y1, x2, y2]: &[f32; 4]| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let common = [
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ];
    let common = area(&common);
    let union = area(a) + area(b) - common;
    if union > 0.0 { common / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn candidate(class: u32, score: f32, rect: [f32; 4]) -> Detection {
        Detection {
            class,
            score,
            rect,
            landmarks: None,
        }
    }

    fn candidates() -> impl Strategy<Value = Vec<Detection>> {
        let side = || 0_u8..40;
        let one = (0_u32..3, 0_u8..=100, side(), side(), 1_u8..20, 1_u8..20).prop_map(
            |(class, score, x, y, width, height)| {
                let [x, y, width, height] = [x, y, width, height].map(f32::from);
                candidate(
                    class,
                    f32::from(score) / 100.0,
                    [x, y, x + width, y + height],
                )
            },
        );
        vec(one, 0..60)
    }

    #[test]
    fn overlap_is_intersection_over_union() {
        let unit = [0.0, 0.0, 2.0, 2.0];
        assert_eq!(overlap(&unit, &unit), 1.0);
        assert_eq!(overlap(&unit, &[1.0, 0.0, 3.0, 2.0]), 2.0 / 6.0);
        assert_eq!(overlap(&unit, &[2.0, 2.0, 3.0, 3.0]), 0.0);
        assert_eq!(overlap(&[1.0; 4], &[1.0; 4]), 0.0);
    }

    #[test]
    fn classes_do_not_suppress_each_other() {
        let rect = [0.0, 0.0, 10.0, 10.0];
        let found = vec![candidate(0, 0.9, rect), candidate(1, 0.8, rect)];
        assert_eq!(suppress(found.clone(), 0.5, 10), found);
    }

    #[test]
    fn ten_times_too_many_candidates_are_cut_to_the_best() {
        let n = 10 * MAX_PREDICTIONS;
        let found = (0..n).map(|at| {
            let x = at as f32;
            candidate(0, at as f32 / n as f32, [x, 0.0, x + 1.0, 1.0])
        });
        let kept = suppress(found.collect(), 0.5, usize::MAX);
        assert_eq!(kept.len(), MAX_PREDICTIONS);
        assert!(kept.iter().all(|kept| kept.score >= 0.9));
    }

    proptest! {
        #[test]
        fn kept_boxes_of_a_class_overlap_at_most_so_much(found in candidates(), iou in 0.0_f32..1.0) {
            let kept = suppress(found, iou, usize::MAX);
            for (index, a) in kept.iter().enumerate() {
                for b in kept[index + 1..].iter().filter(|b| b.class == a.class) {
                    prop_assert!(overlap(&a.rect, &b.rect) <= iou);
                }
            }
        }

        #[test]
        fn suppressing_twice_changes_nothing(found in candidates(), iou in 0.0_f32..1.0) {
            let once = suppress(found, iou, usize::MAX);
            prop_assert_eq!(suppress(once.clone(), iou, usize::MAX), once);
        }

        #[test]
        fn the_best_of_each_class_is_kept(found in candidates(), iou in 0.0_f32..1.0) {
            let kept = suppress(found.clone(), iou, usize::MAX);
            let best = |all: &[Detection], class| {
                let scores = all.iter().filter(|one| one.class == class).map(|one| one.score);
                scores.reduce(f32::max)
            };
            for class in 0..3 {
                prop_assert_eq!(best(&kept, class), best(&found, class));
            }
        }

        #[test]
        fn what_is_dropped_overlaps_a_better_one(found in candidates(), iou in 0.0_f32..1.0) {
            let kept = suppress(found.clone(), iou, usize::MAX);
            for one in found.iter().filter(|one| !kept.contains(one)) {
                prop_assert!(kept.iter().any(|better| better.class == one.class
                    && better.score >= one.score
                    && overlap(&better.rect, &one.rect) > iou));
            }
        }

        #[test]
        fn the_answer_is_the_best_top_k_in_order(found in candidates(), top_k in 0_usize..20) {
            let all = suppress(found.clone(), 0.5, usize::MAX);
            let cut = suppress(found, 0.5, top_k);
            prop_assert!(all.is_sorted_by(|a, b| a.score >= b.score));
            prop_assert_eq!(&cut[..], &all[..top_k.min(all.len())]);
        }
    }
}
