"""The KITTI 3-D object benchmark as a data set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...geometry.calibration import Calibration
from ...geometry.camera_boxes import boxes3d_kitti_camera_to_lidar
from ..info_dataset import InfoDataset
from ..scans import find_scan
from . import infos, predictions, reader
from .crop import index_in_image
from .object3d import Object3d, get_objects_from_label

HOW_TO_MAKE_INFOS = "pcdet-focal create-infos CFG"


class KittiDataset(InfoDataset):
    """Frames of a folder in KITTI's layout (``reader.LAYOUT``), listed by the info files that ``create_kitti_infos``
    makes.

    Names and results are OpenPCDet's. Beside its configuration keys: ``DROP_NONFINITE_POINTS`` (False: NaN and infinite
    points are an error) and ``ALLOW_EMPTY_FRAMES`` (False: see ``DatasetTemplate.prepare_data``).

    Raises InputError where the folder is missing. Missing info files are reported once there is a need for them
    (``why_empty``), because making them needs this class.
    """

    dataset_name, dbinfos_name, how_to_make_infos = "KITTI", "kitti_dbinfos", HOW_TO_MAKE_INFOS
    find_root = staticmethod(reader.find_root)
    box_size = 7  # x, y, z, dx, dy, dz, heading

    @property
    def kitti_infos(self) -> list[dict[str, Any]]:
        """OpenPCDet's name of ``infos``."""
        return self.infos

    @kitti_infos.setter
    def kitti_infos(self, infos: list[dict[str, Any]]) -> None:
        self.infos = infos

    def include_kitti_data(self, mode: str) -> None:
        """OpenPCDet's name of ``include_infos``."""
        self.include_infos(mode)

    def set_split(self, split: str) -> None:
        """Read from here on the frames of ImageSets/<split>.txt, in ``testing`` for 'test', else in ``training``."""
        super().set_split(split)
        self.root_split_path = self.root_path / ("testing" if split == "test" else "training")

    # ---- files of a frame
    # ----------------------------------------------------------------------------------------------------------

    def get_lidar(self, idx: str) -> np.ndarray:
        """The whole scan, float32 (N, columns of src_feature_list): x, y, z in metres, for KITTI intensity. One without
        a point is worth a warning; training refuses it.
        """
        path = find_scan(self.root_split_path / "velodyne", idx)
        names = self.dataset_cfg.POINT_FEATURE_ENCODING.src_feature_list
        points = reader.read_points(path, idx, names, self.dataset_cfg.get("DROP_NONFINITE_POINTS", False))
        if len(points) == 0 and not self.training:
            warnings.warn(f"frame {idx}: the scan {path} has no point", stacklevel=2)
        return points

    def get_image(self, idx: str) -> np.ndarray:
        """The left colour image, float32 (H, W, 3), red green blue in 0 … 1."""
        path = reader.find_image(self.root_split_path, idx)
        reader.require_file(path, "the image", idx)
        return reader.read_image(path)

    def get_image_shape(self, idx: str) -> np.ndarray:
        """int32 (2,): height, width of the left colour image."""
        return reader.read_image_shape(self.root_split_path, idx)

    def get_label(self, idx: str) -> list[Object3d]:
        """The labelled objects, DontCare included."""
        path = self.root_split_path / "label_2" / f"{idx}.txt"
        reader.require_file(path, "the label file", idx)
        return get_objects_from_label(path)

    def get_calib(self, idx: str) -> Calibration:
        """The calibration."""
        path = self.root_split_path / "calib" / f"{idx}.txt"
        reader.require_file(path, "the calibration", idx)
        return Calibration(path)

    def get_road_plane(self, idx: str) -> np.ndarray | None:
        """float64 (4,) a, b, c, d in the rectified camera frame, unit normal upwards; None where the frame has none."""
        return reader.read_road_plane(self.root_split_path / "planes" / f"{idx}.txt")

    @staticmethod
    def get_fov_flag(pts_rect: np.ndarray, img_shape: Sequence[int], calib: Calibration) -> np.ndarray:
        """bool (N,): which points (N, 3) of the rectified camera frame the image shows. The projection is OpenPCDet's,
        see Calibration.
        """
        with np.errstate(divide="ignore", invalid="ignore"):  # a point in the plane of the camera projects to nowhere
            pixels, depth = calib.rect_to_img(pts_rect)
            u, v = pixels[:, 0], pixels[:, 1]
            return (u >= 0) & (u < img_shape[1]) & (v >= 0) & (v < img_shape[0]) & (depth >= 0)

    # ---- info files and database
    # ---------------------------------------------------------------------------------------------------

    def get_info(self, frame_id: str, has_label: bool = True, count_inside_pts: bool = True) -> dict[str, Any]:
        """The info of a frame, from its files; see ``infos``."""
        calib = self.get_calib(frame_id)
        columns = len(self.dataset_cfg.POINT_FEATURE_ENCODING.src_feature_list)
        info = infos.frame_info(frame_id, self.get_image_shape(frame_id), calib, columns)
        if has_label:
            info["annos"] = infos.annotations(self.get_label(frame_id), calib)
            if count_inside_pts:
                points = self._crop_to_image(self.get_lidar(frame_id), info["image"]["image_shape"], calib)
                info["annos"]["num_points_in_gt"] = infos.num_points_in_gt(info["annos"], points)
        return info

    def get_infos(
        self,
        num_workers: int = 4,
        has_label: bool = True,
        count_inside_pts: bool = True,
        sample_id_list: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The infos of the frames of this split (or of ``sample_id_list``), read in threads, with a progress bar."""
        return self.read_infos(num_workers, sample_id_list, has_label=has_label, count_inside_pts=count_inside_pts)

    # ---- results
    # ------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def generate_prediction_dicts(
        batch_dict: dict[str, Any],
        pred_dicts: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        output_path: Path | None = None,
    ) -> list[dict[str, Any]]:
        """The detections of a batch as KITTI annotations; see ``predictions.generate_prediction_dicts``."""
        return predictions.generate_prediction_dicts(batch_dict, pred_dicts, class_names, output_path)

    def evaluation(
        self, det_annos: Sequence[dict[str, Any]], class_names: Sequence[str], **kwargs: Any
    ) -> tuple[str | None, dict[str, float]]:
        """KITTI average precision of ``det_annos`` (one dict a frame, in the order of the infos): the printed table,
        and name -> value.

        (None, {}) where the frames have no labels.
        """
        if not self.infos or "annos" not in self.infos[0]:
            return None, {}
        from .kitti_object_eval_python.eval import get_official_eval_result

        return get_official_eval_result([info["annos"] for info in self.infos], list(det_annos), class_names)

    # ---- samples
    # ------------------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> dict[str, Any]:
        info = self.info_of(index)
        frame_id, image_shape = info["point_cloud"]["lidar_idx"], info["image"]["image_shape"]
        items = self.dataset_cfg.get("GET_ITEM_LIST", ["points"])
        calib = self.get_calib(frame_id)
        frame = {"frame_id": frame_id, "calib": calib, "image_shape": image_shape}

        if "annos" in info:
            frame.update(self._ground_truth(info["annos"], calib, with_boxes2d="gt_boxes2d" in items))
            road_plane = self.get_road_plane(frame_id)
            if road_plane is not None:
                frame["road_plane"] = road_plane
        if "points" in items:
            points = self.points_of(frame_id, self.root_split_path / "velodyne")
            if self.dataset_cfg.FOV_POINTS_ONLY:
                points = self._crop_to_image(points, image_shape, calib)
            frame["points"] = points
        if "images" in items:
            frame["images"] = self.get_image(frame_id)
        return self.prepare_data(data_dict=frame)

    def _crop_to_image(self, points: np.ndarray, image_shape: Sequence[int], calib: Calibration) -> np.ndarray:
        return points.take(index_in_image(points, image_shape, calib), axis=0)

    @staticmethod
    def _ground_truth(annos: dict[str, np.ndarray], calib: Calibration, with_boxes2d: bool) -> dict[str, np.ndarray]:
        kept = annos["name"] != "DontCare"
        boxes_camera = np.column_stack([annos["location"], annos["dimensions"], annos["rotation_y"]])[kept].astype(
            np.float32
        )
        truth = {"gt_names": annos["name"][kept], "gt_boxes": boxes3d_kitti_camera_to_lidar(boxes_camera, calib)}
        if with_boxes2d:
            truth["gt_boxes2d"] = annos["bbox"][kept]
        return truth
