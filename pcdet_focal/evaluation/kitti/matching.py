"""Who finds whom: the greedy assignment of KITTI's object benchmark, for one class, difficulty, metric and minimum
overlap.

Ground truths of all frames come one after the other; a detection can be paired with ground truths of its own frame
only, so frames need no loop of their own. Two rules, both greedy over the ground truths in file order:

* to choose the score thresholds, a ground truth takes the free detection with the highest score;
* to count at a threshold, it takes the free detection (score at or above the threshold) with the highest overlap, and
  an ignored detection only where no counted one overlaps.

Pairs are given as a compressed row list: those of ground truth g are ``first[g]:first[g + 1]``, their detections
ascending.
"""

from __future__ import annotations

import numba
import numpy as np

NUM_RECALLS = 41


@numba.njit(cache=True, nogil=True)
def keep_pairs(first, pair_dt, overlaps, gt_states, dt_states, min_overlap):
    """The pairs that can matter: neither side absent, overlap above the minimum. Same compressed rows; (first, pair_dt,
    overlaps).
    """
    kept_first = np.zeros(len(first), dtype=np.int64)
    kept_dt = np.empty(len(pair_dt), dtype=np.int64)
    kept_overlap = np.empty(len(pair_dt), dtype=np.float64)
    kept = 0
    for g in range(len(gt_states)):
        if gt_states[g] != -1:
            for p in range(first[g], first[g + 1]):
                if dt_states[pair_dt[p]] != -1 and overlaps[p] > min_overlap:
                    kept_dt[kept] = pair_dt[p]
                    kept_overlap[kept] = overlaps[p]
                    kept += 1
        kept_first[g + 1] = kept
    return kept_first, kept_dt[:kept].copy(), kept_overlap[:kept].copy()


@numba.njit(cache=True, nogil=True)
def matched_scores(first, pair_dt, gt_states, dt_states, scores):
    """Scores of the true positives when every ground truth takes the highest-scoring free detection, in ground-truth
    order.
    """
    matched = np.empty(len(gt_states), dtype=np.float64)
    taken = np.zeros(len(dt_states), dtype=np.bool_)
    count = 0
    for g in range(len(gt_states)):
        best = -1
        for p in range(first[g], first[g + 1]):
            d = pair_dt[p]
            if not taken[d] and (best == -1 or scores[d] > scores[best]):
                best = d
        if best == -1:
            continue
        taken[best] = True
        if gt_states[g] == 0 and dt_states[best] == 0:
            matched[count] = scores[best]
            count += 1
    return matched[:count].copy()


@numba.njit(cache=True, nogil=True)
def score_thresholds(scores, num_counted):
    """At most 41 thresholds, descending: those at which the recall comes nearest to 0, 1/40, ... 1.

    Args:
        scores: (T,) float64, scores of the true positives.
        num_counted: ground truths that count.
    """
    descending = np.sort(scores)[::-1]
    chosen = np.empty(NUM_RECALLS, dtype=np.float64)
    count = 0
    target = 0.0
    last = len(descending) - 1
    for i in range(len(descending)):
        recall = (i + 1) / num_counted
        next_recall = (i + 2) / num_counted if i < last else recall
        if i < last and next_recall - target < target - recall:
            continue
        chosen[count] = descending[i]
        count += 1
        # summed, not multiplied, so that rounding falls as in the official program
        target += 1 / (NUM_RECALLS - 1.0)
        if count == NUM_RECALLS:
            break
    return chosen[:count].copy()


@numba.njit(cache=True, nogil=True)
def count_at_thresholds(
    first, pair_dt, overlaps, gt_states, dt_states, scores, gt_alpha, dt_alpha, dt_excused, thresholds
):
    """True positives, false positives, misses and orientation similarity at each threshold.

    Args:
        first, pair_dt, overlaps: what :func:`keep_pairs` returned.
        gt_states, dt_states: (G,) and (D,) int8, 0 counted, 1 ignored, -1 absent.
        scores: (D,) float64. gt_alpha, dt_alpha: (G,) and (D,) float64 radians.
        dt_excused: (D,) bool, no false positive even if it finds nothing (it lies in a region that nobody labelled).
        thresholds: (T,) float64.

    Returns:
        (T, 4) float64: true positives, false positives, misses, sum of (1 + cos(difference of alpha)) / 2 over the true
        positives.
    """
    num_gt, num_dt = len(gt_states), len(dt_states)
    # ground truths that overlap with anything: only these need a look at every threshold
    rows = np.empty(num_gt, dtype=np.int64)
    num_rows = 0
    always_missed = 0
    for g in range(num_gt):
        if first[g + 1] > first[g]:
            rows[num_rows] = g
            num_rows += 1
        elif gt_states[g] == 0:
            always_missed += 1
    # scores of the detections that are false positives unless something takes them
    claimable = np.empty(num_dt, dtype=np.float64)
    num_claimable = 0
    for d in range(num_dt):
        if dt_states[d] == 0 and not dt_excused[d]:
            claimable[num_claimable] = scores[d]
            num_claimable += 1
    claimable = np.sort(claimable[:num_claimable])

    result = np.zeros((len(thresholds), 4), dtype=np.float64)
    taken_at = np.full(num_dt, -1, dtype=np.int64)
    for t in range(len(thresholds)):
        threshold = thresholds[t]
        hits, misses, claimed, similarity = 0, always_missed, 0, 0.0
        for r in range(num_rows):
            g = rows[r]
            best, best_overlap = -1, 0.0
            for p in range(first[g], first[g + 1]):
                d = pair_dt[p]
                if taken_at[d] == t or scores[d] < threshold:
                    continue
                if dt_states[d] == 0:
                    if overlaps[p] > best_overlap:
                        best, best_overlap = d, overlaps[p]
                elif best == -1:
                    best = d
            if best == -1:
                if gt_states[g] == 0:
                    misses += 1
                continue
            taken_at[best] = t
            if dt_states[best] == 0 and not dt_excused[best]:
                claimed += 1
            if gt_states[g] == 0 and dt_states[best] == 0:
                hits += 1
                similarity += (1.0 + np.cos(gt_alpha[g] - dt_alpha[best])) / 2.0
        result[t, 0] = hits
        result[t, 1] = num_claimable - np.searchsorted(claimable, threshold) - claimed
        result[t, 2] = misses
        result[t, 3] = similarity
    return result
