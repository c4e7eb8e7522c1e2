"""What every data set shares: the way from a raw frame to the model's inputs, seeding, and batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import InputError
from .augmentor.data_augmentor import DataAugmentor
from .collate import collate_batch
from .paths import resolve_data_path
from .processor.data_processor import DataProcessor
from .processor.point_feature_encoder import PointFeatureEncoder

MAX_DRAWS_FOR_ONE_FRAME = 1000


class _NoObjectLeft(Exception):
    """A training frame ended without an object while another frame was already being drawn in its place."""


class DatasetTemplate(Dataset):
    """Base class of data sets, with OpenPCDet's constructor, attributes and methods.

    A subclass defines ``__len__`` and ``__getitem__(index)``; the latter reads points (N, 3 + C), ``gt_boxes`` (M, 7)
    and ``gt_names`` (M,) of one frame and returns ``self.prepare_data(...)`` of them.

    Attributes: point_cloud_range (6,) float32; point_feature_encoder; data_augmentor (None in test mode);
    data_processor; grid_size (x, y, z); voxel_size (x, y, z); depth_downsample_factor; total_epochs; seed: int, or None
    for samples that are not reproducible one by one.
    """

    def __init__(
        self,
        dataset_cfg: Any = None,
        class_names: Sequence[str] | None = None,
        training: bool = True,
        root_path: str | Path | None = None,
        logger: Any = None,
    ) -> None:
        super().__init__()
        self.dataset_cfg = dataset_cfg
        self.class_names = class_names
        self.training = training
        self.logger = logger
        self.seed: int | None = None
        self.total_epochs = 0
        self._merge_all_iters_to_one_epoch = False
        self._redrawing = False
        # In shared memory, so that workers that are already running see the main process change it.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        if root_path is not None:
            self.root_path = Path(root_path)
        else:
            self.root_path = resolve_data_path(dataset_cfg.DATA_PATH) if dataset_cfg is not None else None
        if dataset_cfg is None or class_names is None:
            return

        self.point_cloud_range = np.array(dataset_cfg.POINT_CLOUD_RANGE, dtype=np.float32)
        self.point_feature_encoder = PointFeatureEncoder(
            dataset_cfg.POINT_FEATURE_ENCODING, point_cloud_range=self.point_cloud_range
        )
        self.data_augmentor = (
            DataAugmentor(self.root_path, dataset_cfg.DATA_AUGMENTOR, self.class_names, logger=self.logger)
            if training
            else None
        )
        self.data_processor = DataProcessor(
            dataset_cfg.DATA_PROCESSOR,
            point_cloud_range=self.point_cloud_range,
            training=training,
            num_point_features=self.point_feature_encoder.num_point_features,
        )
        self.grid_size = self.data_processor.grid_size
        self.voxel_size = self.data_processor.voxel_size
        self.depth_downsample_factor = getattr(self.data_processor, "depth_downsample_factor", None)

    @property
    def mode(self) -> str:
        """'train' or 'test': the keys of INFO_PATH, DATA_SPLIT and the mode-dependent settings in a configuration."""
        return "train" if self.training else "test"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "logger": None}  # log handlers do not travel to worker processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()

    # ---- length, epochs, seeding
    # ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def merge_all_iters_to_one_epoch(self, merge: bool = True, epochs: int | None = None) -> None:
        """Make one epoch of all of them (``len(self)`` becomes ``epochs`` times the frames), so that workers start only
        once.
        """
        self._merge_all_iters_to_one_epoch = merge
        if merge:
            self.total_epochs = epochs

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch; it takes part in the seed of every sample. Worker processes that already run see it as
        well.
        """
        self._epoch[0] = int(epoch)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of one batch (torch's DataLoader calls this instead of ``__getitem__``), each with randomness of
        its own.

        numpy's global state is set from (seed, epoch, index) before each sample and given back after it: the same seed
        makes the same batches whatever the number of workers and whatever was drawn before. With ``seed`` None the
        global state is left alone.
        """
        if self.seed is None:
            return [self[index] for index in indices]
        samples = []
        before = np.random.get_state()
        try:
            for index in indices:
                np.random.seed(np.random.SeedSequence([self.seed, int(self._epoch), int(index)]).generate_state(8))
                samples.append(self[index])
        finally:
            np.random.set_state(before)
        return samples

    def why_empty(self) -> str:
        """A sentence for the person who finds that this data set has no frame."""
        return f"the data set {type(self).__name__} at {self.root_path} has no frame for {self.mode}ing"

    # ---- one frame
    # -----------------------------------------------------------------------------------------------------------------

    def set_lidar_aug_matrix(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """Add ``lidar_aug_matrix`` (4, 4) float64: what flip, rotation, scaling and translation of the whole scene did
        to a point.
        """
        matrix = np.eye(4)
        if data_dict.get("flip_x", False):
            matrix[:3, :3] = np.diag([1.0, -1.0, 1.0]) @ matrix[:3, :3]
        if data_dict.get("flip_y", False):
            matrix[:3, :3] = np.diag([-1.0, 1.0, 1.0]) @ matrix[:3, :3]
        if "noise_rot" in data_dict:
            cosine, sine = np.cos(data_dict["noise_rot"]), np.sin(data_dict["noise_rot"])
            matrix[:3, :3] = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]) @ matrix[:3, :3]
        if "noise_scale" in data_dict:
            matrix[:3, :3] *= data_dict["noise_scale"]
        if "noise_translate" in data_dict:
            matrix[:3, 3] = np.reshape(data_dict["noise_translate"], 3)
        data_dict["lidar_aug_matrix"] = matrix
        return data_dict

    def prepare_data(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """From a raw frame to the model's inputs: augmentation (training), choice of classes, point features, data
        processing.

        Args:
            data_dict: ``points`` (N, 3 + C) float32; ``gt_boxes`` (M, 7 + K) and ``gt_names`` (M,) (needed in
                training); ``frame_id``; any more.

        Returns the dict with ``gt_boxes`` (M', 7 + K + 1) of the wanted classes, the 1-based class number last;
        ``points``, ``voxels``, ``voxel_coords``, ``voxel_num_points`` as configured; ``use_lead_xyz``;
        ``lidar_aug_matrix``; without ``gt_names``.

        A training frame that ends without an object is replaced by another one drawn at random, as in OpenPCDet; with
        ``ALLOW_EMPTY_FRAMES: True`` in the data set's configuration it is kept. Raises InputError where no frame with
        an object is found.
        """
        if self.training:
            if "gt_boxes" not in data_dict:
                raise InputError(
                    f"frame {data_dict.get('frame_id')}: training needs labels, and the info file has none for it"
                )
            of_classes = np.isin(data_dict["gt_names"], self.class_names)
            data_dict = self.data_augmentor.forward(data_dict={**data_dict, "gt_boxes_mask": of_classes})
        data_dict = self.set_lidar_aug_matrix(data_dict)

        if data_dict.get("gt_boxes") is not None:
            data_dict = self._keep_wanted_classes(data_dict)
        if data_dict.get("points") is not None:
            data_dict = self.point_feature_encoder.forward(data_dict)
        data_dict = self.data_processor.forward(data_dict=data_dict)

        if self.training and len(data_dict["gt_boxes"]) == 0 and not self.dataset_cfg.get("ALLOW_EMPTY_FRAMES", False):
            if self._redrawing:
                raise _NoObjectLeft
            return self._draw_another_frame()
        data_dict.pop("gt_names", None)
        return data_dict

    def _keep_wanted_classes(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        names = data_dict["gt_names"]
        kept = np.array([index for index, name in enumerate(names) if name in self.class_names], dtype=np.int64)
        classes = np.array([self.class_names.index(names[index]) + 1 for index in kept], dtype=np.float32).reshape(
            -1, 1
        )
        changed = {"gt_boxes": np.concatenate((data_dict["gt_boxes"][kept], classes), axis=1), "gt_names": names[kept]}
        if data_dict.get("gt_boxes2d") is not None:
            changed["gt_boxes2d"] = data_dict["gt_boxes2d"][kept]
        return {**data_dict, **changed}

    def _draw_another_frame(self) -> dict[str, Any]:
        draws = min(20 * len(self) + 20, MAX_DRAWS_FOR_ONE_FRAME)
        self._redrawing = True
        try:
            for _ in range(draws):
                try:
                    return self[np.random.randint(len(self))]
                except _NoObjectLeft:
                    continue
        finally:
            self._redrawing = False
        raise InputError(
            f"{draws} training frames drawn at random from {self.root_path} had not one object of the classes "
            f"{', '.join(self.class_names)} "
            f"inside POINT_CLOUD_RANGE {list(self.dataset_cfg.POINT_CLOUD_RANGE)}. Check CLASS_NAMES against the "
            "labels, and the range; to train on "
            "frames without objects set ALLOW_EMPTY_FRAMES: True under DATA_CONFIG"
        )

    # ---- batches and results
    # -------------------------------------------------------------------------------------------------------

    @staticmethod
    def collate_batch(batch_list: Sequence[dict[str, Any]], _unused: bool = False) -> dict[str, Any]:
        """One batch from a list of samples; see :func:`pcdet_focal.datasets.collate.collate_batch`."""
        return collate_batch(batch_list)

    @staticmethod
    def generate_prediction_dicts(
        batch_dict: dict[str, Any],
        pred_dicts: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        output_path: Path | None = None,
    ) -> list[dict[str, Any]]:
        """Per frame: name (N,), score (N,), boxes_lidar (N, 7 or 9), pred_labels (N,) as numpy, frame_id, and metadata
        where the batch has it.

        ``pred_dicts`` holds tensors pred_boxes, pred_scores and pred_labels (1-based). Nothing is written: a data set
        with a file format of its own overrides this.
        """
        annos = []
        for index, prediction in enumerate(pred_dicts):
            boxes, scores, labels = (
                prediction[key].detach().cpu().numpy() for key in ("pred_boxes", "pred_scores", "pred_labels")
            )
            anno = {
                "name": np.array(class_names)[labels.astype(np.int64) - 1],
                "score": scores,
                "boxes_lidar": boxes,
                "pred_labels": labels,
                "frame_id": batch_dict["frame_id"][index],
            }
            if "metadata" in batch_dict:
                anno["metadata"] = batch_dict["metadata"][index]
            annos.append(anno)
        return annos
