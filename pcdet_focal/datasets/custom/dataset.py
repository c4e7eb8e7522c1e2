"""Frames of one's own: scans as numpy arrays, labels as text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...ops.points_in_boxes import count_points_in_boxes
from ..dataset import DatasetTemplate
from ..info_dataset import InfoDataset
from ..info_rows import drop_info_with_name
from ..scans import find_scan
from . import reader
from .evaluation import check_class_map, evaluate_as_kitti

HOW_TO_MAKE_INFOS = "pcdet-focal create-infos CFG"


class CustomDataset(InfoDataset):
    """Frames of a folder in the layout of ``reader.LAYOUT``, listed by the info files that ``create_custom_infos``
    makes.

    Names, files and results are OpenPCDet's. Beside its configuration keys: ``DROP_NONFINITE_POINTS`` (False: NaN and
    infinite points are an error), ``ALLOW_EMPTY_FRAMES`` (False: see ``DatasetTemplate.prepare_data``),
    ``FILTER_MIN_POINTS_IN_GT`` (0: boxes with fewer points are neither trained on nor evaluated).

    Raises InputError where the folder is missing, and for evaluation where MAP_CLASS_TO_KITTI does not cover the
    classes. Missing info files are reported once there is a need for them (``why_empty``), because making them needs
    this class.
    """

    dataset_name, dbinfos_name, how_to_make_infos = "CUSTOM", "custom_dbinfos", HOW_TO_MAKE_INFOS
    find_root = staticmethod(reader.find_root)
    box_size = 7  # x, y, z, dx, dy, dz, heading

    def __init__(
        self,
        dataset_cfg: Any,
        class_names: Sequence[str],
        training: bool = True,
        root_path: str | Path | None = None,
        logger: Any = None,
    ) -> None:
        super().__init__(dataset_cfg, class_names, training, root_path, logger)
        self.map_class_to_kitti = dataset_cfg.MAP_CLASS_TO_KITTI
        if not training:
            check_class_map(self.map_class_to_kitti, class_names)

    @property
    def custom_infos(self) -> list[dict[str, Any]]:
        """OpenPCDet's name of ``infos``."""
        return self.infos

    def include_data(self, mode: str) -> None:
        """OpenPCDet's name of ``include_infos``."""
        self.include_infos(mode)

    # ---- files of a frame
    # ----------------------------------------------------------------------------------------------------------

    def get_lidar(self, idx: str) -> np.ndarray:
        """The whole scan, float32 (N, columns of src_feature_list). One without a point is worth a warning; training
        refuses it.
        """
        path = find_scan(self.root_path / "points", idx, (".npy", ".bin", ".pcd"))
        names = self.dataset_cfg.POINT_FEATURE_ENCODING.src_feature_list
        points = reader.read_points(path, idx, names, self.dataset_cfg.get("DROP_NONFINITE_POINTS", False))
        if len(points) == 0 and not self.training:
            warnings.warn(f"frame {idx}: the scan {path} has no point", stacklevel=2)
        return points

    def get_label(self, idx: str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 (M, 7) and their names (M,); M may be 0."""
        return reader.read_labels(self.root_path / "labels" / f"{idx}.txt", idx)

    # ---- info files and database
    # ---------------------------------------------------------------------------------------------------

    def get_info(self, frame_id: str, has_label: bool = True, count_inside_pts: bool = True) -> dict[str, Any]:
        """The info of a frame, from its files.

        point_cloud: num_features (columns of a scan), lidar_idx; with ``has_label`` annos: name (M,), gt_boxes_lidar
        (M, 7) float32, and, which OpenPCDet's have not, with ``count_inside_pts`` num_points_in_gt (M,) int32.
        """
        num_features = len(self.dataset_cfg.POINT_FEATURE_ENCODING.src_feature_list)
        info: dict[str, Any] = {"point_cloud": {"num_features": num_features, "lidar_idx": frame_id}}
        if has_label:
            boxes, names = self.get_label(frame_id)
            info["annos"] = {"name": names, "gt_boxes_lidar": boxes}
            if count_inside_pts:
                inside = count_points_in_boxes(self.get_lidar(frame_id)[:, :3], boxes, margin=0.0)
                info["annos"]["num_points_in_gt"] = inside.astype(np.int32)
        return info

    def get_infos(
        self,
        class_names: Sequence[str] | None = None,
        num_workers: int = 4,
        has_label: bool = True,
        sample_id_list: Sequence[str] | None = None,
        num_features: int | None = None,
    ) -> list[dict[str, Any]]:
        """The infos of the frames of this split (or of ``sample_id_list``), read in threads, with a progress bar.

        ``class_names`` and ``num_features`` are OpenPCDet's arguments: objects of every class are kept, and the columns
        are those of src_feature_list.
        """
        return self.read_infos(num_workers, sample_id_list, has_label=has_label)

    @staticmethod
    def create_label_file_with_name_and_box(
        class_names: Sequence[str], gt_names: Sequence[str], gt_boxes: np.ndarray, save_label_path: str | Path
    ) -> None:
        """Write the boxes (M, 7) whose names are among ``class_names`` as a label file."""
        kept = [index for index, name in enumerate(gt_names) if name in class_names]
        reader.write_labels(Path(save_label_path), np.asarray(gt_boxes)[kept], [gt_names[index] for index in kept])

    # ---- results
    # ------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def generate_prediction_dicts(
        batch_dict: dict[str, Any],
        pred_dicts: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        output_path: Path | None = None,
    ) -> list[dict[str, Any]]:
        """What ``DatasetTemplate.generate_prediction_dicts`` returns; into ``output_path`` it also writes
        ``<frame>.txt`` in the form of the labels, the score between heading and class.
        """
        annos = DatasetTemplate.generate_prediction_dicts(batch_dict, pred_dicts, class_names)
        for anno in annos if output_path is not None else ():
            named = [f"{score:.4f} {name}" for score, name in zip(anno["score"], anno["name"])]
            reader.write_labels(Path(output_path) / f"{anno['frame_id']}.txt", anno["boxes_lidar"], named)
        return annos

    def evaluation(
        self, det_annos: Sequence[dict[str, Any]], class_names: Sequence[str], **kwargs: Any
    ) -> tuple[str | None, dict[str, float]]:
        """KITTI average precision of ``det_annos`` (one dict a frame, in the order of the infos): the printed table,
        and name -> value.

        (None, {}) where the frames have no labels. See ``evaluation.evaluate_as_kitti``. Raises InputError for an
        ``eval_metric`` other than kitti.
        """
        if kwargs.get("eval_metric", "kitti") != "kitti":
            raise InputError(
                f"MODEL.POST_PROCESSING.EVAL_METRIC is {kwargs['eval_metric']!r}; custom data is evaluated by 'kitti'"
            )
        if not self.infos or "annos" not in self.infos[0]:
            return None, {}
        return evaluate_as_kitti(
            [self._ground_truth(info["annos"]) for info in self.infos],
            det_annos,
            class_names,
            self.map_class_to_kitti,
            self.dataset_cfg.get("INFO_WITH_FAKELIDAR", False),
        )

    # ---- samples
    # ------------------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> dict[str, Any]:
        info = self.info_of(index)
        frame_id = info["point_cloud"]["lidar_idx"]
        points = self.points_of(frame_id, self.root_path / "points")
        frame = {"frame_id": frame_id, "points": points}
        if "annos" in info:
            truth = self._ground_truth(info["annos"])
            frame.update(gt_names=truth["name"], gt_boxes=truth["gt_boxes_lidar"])
        return self.prepare_data(data_dict=frame)

    def _ground_truth(self, annos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The objects to train on and to find: without DontCare and those with fewer points than
        FILTER_MIN_POINTS_IN_GT.
        """
        annos = drop_info_with_name(annos, name="DontCare")
        min_points = self.dataset_cfg.get("FILTER_MIN_POINTS_IN_GT", 0)
        if not min_points:
            return annos
        if "num_points_in_gt" not in annos:
            raise InputError(
                f"DATA_CONFIG.FILTER_MIN_POINTS_IN_GT: the infos in {self.root_path} do not tell how many points a "
                "box has (OpenPCDet's do not); "
                f"make them with: {HOW_TO_MAKE_INFOS}"
            )
        kept = annos["num_points_in_gt"] >= min_points
        return {key: rows[kept] for key, rows in annos.items()}
