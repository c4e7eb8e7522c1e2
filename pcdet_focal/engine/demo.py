"""Detections in scans that belong to no data set: reading the files, a table, a picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..datasets import DatasetTemplate
from ..datasets.scans import SUFFIXES, read_scan
from ..errors import InputError
from ..models import load_data_to_device


class DemoDataset(DatasetTemplate):
    """A scan file, or those of a folder, as the input of a detector; OpenPCDet's class of that name.

    A scan has the columns of DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list (x, y, z in metres, intensity for
    KITTI): float32 values one after the other (.bin), an array (N, columns) saved by numpy (.npy), or the fields of
    those names in a .pcd file. ``ext`` chooses one of these of a folder.

    Raises InputError, naming file and fault, for a path that does not exist, a folder without such files, a file that
    is cut off or has other columns, and NaN or infinite values (DATA_CONFIG.DROP_NONFINITE_POINTS: True leaves such
    points out).
    """

    def __init__(
        self,
        dataset_cfg: Any,
        class_names: Sequence[str],
        training: bool = False,
        root_path: str | Path | None = None,
        logger: Any = None,
        ext: str | None = None,
    ) -> None:
        root = Path(root_path)
        if not root.exists():
            raise InputError(f"there is no file or folder {root} (--data_path)")
        suffixes = SUFFIXES if ext is None else (ext,)
        self.sample_file_list = (
            sorted(path for path in root.iterdir() if path.suffix in suffixes) if root.is_dir() else [root]
        )
        if not self.sample_file_list:
            raise InputError(f"the folder {root} (--data_path) has no {' or '.join(suffixes)} file")
        super().__init__(
            dataset_cfg=dataset_cfg, class_names=class_names, training=training, root_path=root, logger=logger
        )

    def __len__(self) -> int:
        return len(self.sample_file_list)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.sample_file_list[index]
        return self.prepare_data({"points": self.read_scan(path), "frame_id": path.stem})

    def read_scan(self, path: Path) -> np.ndarray:
        """The points of a file, float32 (N, columns)."""
        points = read_scan(
            path,
            list(self.dataset_cfg.POINT_FEATURE_ENCODING.src_feature_list),
            drop_nonfinite=self.dataset_cfg.get("DROP_NONFINITE_POINTS", False),
        )
        if not len(points):
            warnings.warn(f"{path} has no point", stacklevel=2)
        return points


@torch.no_grad()
def show_detections(
    model: nn.Module, dataset: DemoDataset, score_thresh: float, out: Path, html: bool = False
) -> list[dict[str, np.ndarray]]:
    """Print a table of the boxes found in each scan and draw them to ``out/<scan>.png``; returns name, score and
    boxes_lidar for each scan.

    With ``html`` also ``out/<scan>.html``: the scan and its boxes in 3-D, to turn in a browser; one file that needs no
    other.
    """
    from ..visualization import draw_bev, write_scene_html

    device = next(model.parameters()).device
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for index, path in enumerate(dataset.sample_file_list):
        batch = dataset.collate_batch([dataset[index]])
        points = batch["points"][:, 1:]
        load_data_to_device(batch, device)
        pred_dicts, _ = model(batch)
        (anno,) = dataset.generate_prediction_dicts(batch, pred_dicts, dataset.class_names)
        kept = anno["score"] >= score_thresh
        anno = {key: anno[key][kept] for key in ("name", "score", "boxes_lidar")}
        picture = out / f"{path.stem}.png"
        draw_bev(
            points,
            pred_boxes=anno["boxes_lidar"],
            pred_scores=anno["score"],
            pred_names=anno["name"],
            point_cloud_range=dataset.point_cloud_range,
            title=path.name,
            path=picture,
        )
        if html:
            boxes, names, scores = anno["boxes_lidar"], anno["name"], anno["score"]
            write_scene_html(
                points,
                pred_boxes=boxes,
                pred_names=names,
                pred_scores=scores,
                path=picture.with_suffix(".html"),
                title=path.name,
            )
        print(
            "\n".join(
                [
                    f"{path.name}: {kept.sum()} boxes with a score of at least {score_thresh:g}, drawn in {picture}",
                    *table(anno),
                ]
            ),
            flush=True,
        )
        results.append(anno)
    return results


def table(anno: dict[str, np.ndarray]) -> list[str]:
    """A heading and one line a box, the best first; metres and radians. Nothing where there is no box."""
    columns = ("x", "y", "z", "dx", "dy", "dz", "heading")
    lines = [f"  {'class':<12}{'score':>6}  " + "".join(f"{name:>9}" for name in columns)]
    for row in np.argsort(-anno["score"], kind="stable"):
        box = "".join(f"{value:>9.2f}" for value in anno["boxes_lidar"][row, :7])
        lines.append(f"  {anno['name'][row]:<12}{anno['score'][row]:>6.2f}  {box}")
    return lines if len(lines) > 1 else []
