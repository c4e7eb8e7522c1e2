"""The ground-truth database: the points of each labelled object, for pasting into other scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import file_name
from ...ops.points_in_boxes import points_in_boxes_mask
from ..augmentor.object_points import pack_objects, packed_file
from ..parallel_map import parallel_map


def write_database(
    infos: Sequence[dict[str, Any]],
    read_points: Callable[[str], np.ndarray],
    folder: Path,
    used_classes: Sequence[str] | None = None,
    num_workers: int = 4,
) -> dict[str, list[dict[str, Any]]]:
    """Write ``folder/<frame>_<class>_<i>.bin`` for every object of the infos, DontCare excepted, and all of them in one
    file beside ``folder``; return the index of them. OpenPCDet reads the small files, ground-truth sampling here the
    packed one (``augmentor/object_points.py``).

    A file holds the points of the object's box, float32 (n, C) in the order of the scan, x, y, z relative to the box
    centre and not rotated. The box has a margin of 1 cm in x and y, as in OpenPCDet's CPU test, and points come from
    the whole scan, not the camera's view.

    Returns:
        {class: [{name, path ('<folder name>/<file>'), image_idx, gt_idx, box3d_lidar (7,), num_points_in_gt,
        global_data_offset, global_data_crc32, and, where the annotations have them, difficulty, bbox (4,), score}]},
        classes and objects in the order of the infos; ``used_classes`` limits the index and the packed file, not the
        small files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = set()

    def write_frame(info: dict[str, Any]) -> list[dict[str, Any]]:
        frame_id, annos = info["point_cloud"]["lidar_idx"], info["annos"]
        points, boxes = read_points(frame_id), annos["gt_boxes_lidar"]
        columns.add(points.shape[1])
        inside = points_in_boxes_mask(points[:, :3], boxes)  # (M, N)
        entries = []
        for i, box in enumerate(boxes):
            name = str(annos["name"][i])
            object_points = points[inside[i] > 0]
            object_points[:, :3] -= box[:3]  # a copy: indexing with a mask makes one
            path = folder / f"{file_name(frame_id)}_{file_name(name)}_{i}.bin"
            object_points.tofile(path)
            entries.append(
                {
                    "name": annos["name"][i],
                    "path": f"{folder.name}/{path.name}",
                    "image_idx": frame_id,
                    "gt_idx": i,
                    "box3d_lidar": box,
                    "num_points_in_gt": len(object_points),
                    # KITTI's; other data sets have none
                    **{key: annos[key][i] for key in ("difficulty", "bbox", "score") if key in annos},
                }
            )
        return entries

    index: dict[str, list[dict[str, Any]]] = {}
    for entries in parallel_map(write_frame, infos, len(infos), "database", num_workers):
        for entry in entries:
            if used_classes is None or entry["name"] in used_classes:
                index.setdefault(str(entry["name"]), []).append(entry)
    pack_objects(
        (entry for entries in index.values() for entry in entries),
        folder.parent,
        max(columns, default=4),
        packed_file(folder),
    )
    return index
