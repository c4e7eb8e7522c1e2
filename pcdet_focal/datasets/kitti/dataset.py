"""The KITTI 3-D object benchmark as a data set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...geometry.calibration import Calibration
from ...geometry.camera_boxes import boxes3d_kitti_camera_to_lidar
from ..dataset import DatasetTemplate
from ..image_sets import read_split
from ..info_files import load_infos, no_infos
from ..over_frames import over_frames
from ..paths import data_path_candidates
from ..publish import published, save_pickle
from ..safe_pickle import load_pickle
from . import database, infos, predictions, reader
from .crop import index_in_image
from .object3d import Object3d, get_objects_from_label

HOW_TO_MAKE_INFOS = "python -m pcdet_focal.datasets.kitti.kitti_dataset create_kitti_infos CFG"


class KittiDataset(DatasetTemplate):
    """Frames of a folder in KITTI's layout (``reader.LAYOUT``), listed by the info files that ``create_kitti_infos``
    makes.

    Names and results are OpenPCDet's. Beside its configuration keys: ``DROP_NONFINITE_POINTS`` (False: NaN and infinite
    points are an error) and ``ALLOW_EMPTY_FRAMES`` (False: see ``DatasetTemplate.prepare_data``).

    Raises InputError where the folder is missing. Missing info files are reported once there is a need for them
    (``why_empty``), because making them needs this class.
    """

    how_to_make_infos = HOW_TO_MAKE_INFOS

    def __init__(
        self,
        dataset_cfg: Any,
        class_names: Sequence[str],
        training: bool = True,
        root_path: str | Path | None = None,
        logger: Any = None,
    ) -> None:
        # First of all: the steps of the configuration also look for files in there, and would complain of those.
        root_path = reader.find_root(
            [Path(root_path)] if root_path is not None else data_path_candidates(dataset_cfg.DATA_PATH)
        )
        super().__init__(
            dataset_cfg=dataset_cfg, class_names=class_names, training=training, root_path=root_path, logger=logger
        )
        self.set_split(dataset_cfg.DATA_SPLIT[self.mode])
        self.kitti_infos: list[dict[str, Any]] = []
        self.include_kitti_data(self.mode)

    def include_kitti_data(self, mode: str) -> None:
        """Append the infos that ``INFO_PATH[mode]`` lists; files that do not exist are left out."""
        found = load_infos(self.root_path, self.dataset_cfg.INFO_PATH[mode], HOW_TO_MAKE_INFOS, self.logger)
        self.kitti_infos.extend(found)
        if self.logger is not None:
            self.logger.info(f"Total samples for KITTI dataset: {len(found)}")

    @property
    def infos(self) -> list[dict[str, Any]]:
        """One info a frame, in the order of the samples; every data set that has infos calls them so."""
        return self.kitti_infos

    def why_empty(self) -> str:
        return no_infos(self.root_path, self.dataset_cfg.INFO_PATH[self.mode], self.mode, HOW_TO_MAKE_INFOS)

    def set_split(self, split: str) -> None:
        """Read from here on the frames of ImageSets/<split>.txt, in ``testing`` for 'test', else in ``training``."""
        self.split = split
        self.root_split_path = self.root_path / ("testing" if split == "test" else "training")
        split_file = self.root_path / "ImageSets" / f"{split}.txt"
        self.sample_id_list = read_split(split_file) if split_file.exists() else None

    # ---- files of a frame
    # ----------------------------------------------------------------------------------------------------------

    def get_lidar(self, idx: str) -> np.ndarray:
        """The whole scan, float32 (N, 4): x, y, z in metres, intensity. One without a point is worth a warning;
        training refuses it.
        """
        path = self.root_split_path / "velodyne" / f"{idx}.bin"
        points = reader.read_points(path, idx, self.dataset_cfg.get("DROP_NONFINITE_POINTS", False))
        if len(points) == 0 and not self.training:
            warnings.warn(f"frame {idx}: the scan {path} has no point", stacklevel=2)
        return points

    def get_image(self, idx: str) -> np.ndarray:
        """The left colour image, float32 (H, W, 3), red green blue in 0 … 1."""
        from matplotlib.image import imread

        path = self.root_split_path / "image_2" / f"{idx}.png"
        reader.require_file(path, "the image", idx)
        return imread(path)[..., :3].astype(np.float32)

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
        info = infos.frame_info(frame_id, self.get_image_shape(frame_id), calib)
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
        if sample_id_list is None:
            sample_id_list = self.sample_id_list
        if sample_id_list is None:
            raise InputError(
                f"there is no {self.root_path / 'ImageSets' / f'{self.split}.txt'}: it lists the frames of the split, "
                "one id a line"
            )
        info_of = partial(self.get_info, has_label=has_label, count_inside_pts=count_inside_pts)
        return over_frames(info_of, sample_id_list, len(sample_id_list), f"infos {self.split}", num_workers)

    def create_groundtruth_database(
        self,
        info_path: str | Path | None = None,
        used_classes: Sequence[str] | None = None,
        split: str = "train",
        save_path: str | Path | None = None,
        num_workers: int = 4,
    ) -> None:
        """Write the object database of the frames in ``info_path`` under ``save_path`` (default: the data root).

        Folder ``gt_database`` (``gt_database_<split>`` for another split than train), the same name with
        ``_global.npy``, and ``kitti_dbinfos_<split>.pkl``; all appear complete or not at all.
        """
        name = "gt_database" if split == "train" else f"gt_database_{split}"
        with published(Path(save_path or self.root_path)) as folder:
            index = database.write_database(
                load_pickle(info_path), self.get_lidar, folder / name, used_classes, num_workers
            )
            save_pickle(index, folder / f"kitti_dbinfos_{split}.pkl")

    # ---- results
    # -------------------------------------------------------------------------------------------------------------------

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
        if not self.kitti_infos or "annos" not in self.kitti_infos[0]:
            return None, {}
        from .kitti_object_eval_python.eval import get_official_eval_result

        return get_official_eval_result([info["annos"] for info in self.kitti_infos], list(det_annos), class_names)

    # ---- samples
    # -------------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.kitti_infos) * (self.total_epochs if self._merge_all_iters_to_one_epoch else 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        info = self.kitti_infos[index % len(self.kitti_infos)]
        frame_id, image_shape = info["point_cloud"]["lidar_idx"], info["image"]["image_shape"]
        wanted = self.dataset_cfg.get("GET_ITEM_LIST", ["points"])
        calib = self.get_calib(frame_id)
        frame = {"frame_id": frame_id, "calib": calib, "image_shape": image_shape}

        if "annos" in info:
            frame.update(self._ground_truth(info["annos"], calib, with_boxes2d="gt_boxes2d" in wanted))
            road_plane = self.get_road_plane(frame_id)
            if road_plane is not None:
                frame["road_plane"] = road_plane
        if "points" in wanted:
            points = self.get_lidar(frame_id)
            if self.training and len(points) == 0:
                raise InputError(
                    f"frame {frame_id}: its scan in {self.root_split_path / 'velodyne'} has no point, and this is "
                    f"training; take {frame_id} out of "
                    "ImageSets/train.txt and make the infos anew"
                )
            if self.dataset_cfg.FOV_POINTS_ONLY:
                points = self._crop_to_image(points, image_shape, calib)
            frame["points"] = points
        if "images" in wanted:
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
