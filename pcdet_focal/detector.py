"""A trained detector as one object: scans in, boxes out."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .config import Config, cfg_from_yaml_file, config_from_plain
from .datasets.dataset import DatasetTemplate
from .datasets.scan_statistics import differences
from .datasets.scans import read_scan
from .detections import Detections
from .engine.checkpoint import load_for_use
from .engine.devices import pick_device
from .engine.inference import prepare_for_inference
from .engine.overlap import overlapped
from .errors import InputError, did_you_mean
from .hub import HUB_MODELS, download
from .models import build_network, load_data_to_device
from .models.detectors import Detector3DTemplate
from .models.model_utils.checkpoint_files import read_checkpoint

logger = logging.getLogger("pcdet_focal")

Scan = np.ndarray | torch.Tensor | str | Path
_YAML = (".yaml", ".yml")


class Detector:
    """Finds objects in scans. Needs no data set, calibration, info file or output folder.

    >>> detector = Detector.load("model.pth")                                   # doctest: +SKIP
    >>> found = detector("scan.bin")                                            # doctest: +SKIP
    >>> found.boxes, found.scores, found.names                                  # doctest: +SKIP

    It may be called from several threads: scans are prepared side by side, the network takes one batch at a time.

    Args:
        model: a detector of this package, with its weights.
        cfg: its configuration: CLASS_NAMES, DATA_CONFIG, MODEL.
        trained_on: ``datasets.scan_statistics.ScanStatistics.result`` of its training; None: scans are not compared.
        drop_nonfinite: leave out points with NaN or infinite values; None: as DATA_CONFIG.DROP_NONFINITE_POINTS says,
            else they are an error.

    Attributes: model (in evaluation mode); cfg; class_names; feature_names (of a scan's columns); device.
    """

    def __init__(
        self,
        model: nn.Module,
        cfg: Any,
        trained_on: Mapping[str, Any] | None = None,
        drop_nonfinite: bool | None = None,
    ):
        self.model: Any = model.eval()
        self.cfg, self.trained_on = cfg, trained_on
        self.class_names = list(cfg.CLASS_NAMES)
        self.feature_names = list(cfg.DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list)
        self.device = next(model.parameters()).device
        if drop_nonfinite is None:
            drop_nonfinite = cfg.DATA_CONFIG.get("DROP_NONFINITE_POINTS", False)
        self.drop_nonfinite = drop_nonfinite
        self._dataset = _dataset_of(cfg)
        self._lock = threading.Lock()
        self._said: set[str] = set()

    @classmethod
    def load(
        cls,
        config: str | Path | Mapping[str, Any],
        checkpoint: str | Path | None = None,
        device: str | torch.device | None = None,
        drop_nonfinite: bool | None = None,
        precision: str = "float32",
    ) -> Detector:
        """A detector from its files.

        Args:
            config: the YAML file of the configuration, or the name of one that the package has
                ("kitti_models/pointpillar.yaml"), or a loaded configuration. Checkpoints of this package know theirs:
                then the checkpoint alone is enough, in this place. So is the name of weights on the hub
                ("pointpillars.kitti.openpcdet", see ``hub.HUB_MODELS``).
            checkpoint: .pth (this package's or OpenPCDet's), .safetensors, or the name of weights on the hub.
            device: "cpu", "cuda", "cuda:1"; None: CUDA where there is one.
            drop_nonfinite: see the class.
            precision: on a CPU: "float32": boxes as in an evaluation, to 1e-4. "bfloat16": the 2-D part is several
                times as fast on processors that have it, and boxes move by millimetres. "auto": bfloat16 there, else
                float32.

        Raises:
            InputError: a file is missing or damaged, the weights are another architecture's, or the checkpoint does not
                know its configuration and none is given.
        """
        cfg: Any = None
        if checkpoint is None and str(config) in HUB_MODELS:
            config, checkpoint = HUB_MODELS[str(config)].config, config
        if checkpoint is None:
            if isinstance(config, Mapping) or Path(config).suffix in _YAML:
                name = "this mapping" if isinstance(config, Mapping) else config
                raise InputError(f"{name} is a configuration; give the checkpoint too")
            checkpoint = config
        else:
            cfg = Config(config) if isinstance(config, Mapping) else cfg_from_yaml_file(config, Config())
        path = download(str(checkpoint)) if str(checkpoint) in HUB_MODELS else Path(checkpoint)
        if not path.exists():
            raise InputError(f"there is no checkpoint {path}{did_you_mean(path, HUB_MODELS).removesuffix('.')}")
        content = read_checkpoint(path)
        if cfg is None and content.get("config") is None:
            raise InputError(
                f"{path} does not know its configuration, as checkpoints of OpenPCDet do not; give it too: "
                '--cfg_file, or Detector.load("kitti_models/second.yaml", checkpoint)'
            )
        cfg = config_from_plain(content["config"], str(path)) if cfg is None else cfg
        model = build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=_dataset_of(cfg))
        load_for_use(model, path, logger, checkpoint=content)
        model = prepare_for_inference(model.to(pick_device(device)), precision)
        return cls(model, cfg, content.get("scans"), drop_nonfinite)

    def __call__(self, scans: Scan | list[Scan] | tuple[Scan, ...] | Iterable[Scan]) -> Any:
        """Find the objects of one scan or of several.

        Args:
            scans: a scan, which is an array or tensor (N, C) with the columns ``feature_names``, x, y and z in metres,
                or a file (.bin, .npy, .pcd, .ply, .las, .laz); a list or tuple of scans, which becomes one batch; or an
                iterator of scans, of which reading, network and decoding overlap.

        Returns:
            ``Detections``; a list of them; an iterator of them, each as soon as it is there.

        Raises:
            InputError: a file cannot be read, or the points have other columns, are integers, or are not finite. It
                names the file, or the number of the scan in the list.

        A scan that is not like those of the training (another range of a feature, another height of the sensor) is a
        warning, once for each kind.
        """
        if isinstance(scans, (np.ndarray, torch.Tensor, str, Path)):
            return self._detect([self._prepare(scans)])[0]
        if isinstance(scans, (list, tuple)):
            samples = [self._prepare(scan, f"scan {index}: ") for index, scan in enumerate(scans)]
            return self._detect(samples) if samples else []
        return self._stream(scans)

    def warm_up(self, num_points: int = 20000) -> None:
        """Run once on a made-up scan, so that the first real one does not wait for kernels to be compiled or tuned."""
        low, high = np.split(self._dataset.point_cloud_range, 2)
        points = np.zeros((num_points, len(self.feature_names)), np.float32)
        points[:, :3] = np.random.default_rng(0).uniform(low, high, (num_points, 3))
        sample = self._dataset.prepare_data({"points": points, "frame_id": ""})
        self._detect([{"sample": sample, "points": points, "title": ""}])

    # ---- stages: a scan -> a sample; samples -> a batch after the network; the batch -> detections

    def _prepare(self, scan: Scan, where: str = "") -> dict[str, Any]:
        if isinstance(scan, (str, Path)):
            path = Path(scan)
            return self._sample(read_scan(path, self.feature_names, drop_nonfinite=self.drop_nonfinite), path.name)
        return self._sample(self._points(scan, where), "", where)

    def _points(self, scan: Any, where: str) -> np.ndarray:
        points = scan.detach().cpu().numpy() if isinstance(scan, torch.Tensor) else scan
        if not isinstance(points, np.ndarray):
            raise InputError(f"{where}a scan is an array, a tensor or a file, not {type(scan).__name__}")
        if points.ndim != 2 or points.shape[1] != len(self.feature_names):
            raise InputError(
                f"{where}points {points.shape} were given; this detector reads (N, {len(self.feature_names)}): "
                f"{', '.join(self.feature_names)}"
            )
        if points.dtype.kind != "f":
            raise InputError(f"{where}points of {points.dtype} were given; x, y and z are float32 numbers in metres")
        points = points.astype(np.float32)
        finite = np.isfinite(points).all(axis=1)
        if not finite.all() and not self.drop_nonfinite:
            raise InputError(
                f"{where}{np.count_nonzero(~finite)} of the {len(points)} points have NaN or infinite values; "
                "Detector.load(..., drop_nonfinite=True) leaves such points out"
            )
        return points[finite]

    def _sample(self, points: np.ndarray, title: str, where: str = "") -> dict[str, Any]:
        name = title or where.removesuffix(": ") or "the scan"
        if not len(points):
            warnings.warn(f"{name} has no point", stacklevel=4)
        sample = self._dataset.prepare_data({"points": points, "frame_id": title})
        if self.trained_on is not None and sample.get("points") is not None:
            features = self._dataset.point_feature_encoder.used_feature_list
            for sentence in differences(sample["points"], features, self.trained_on):
                kind = sentence.split()[0]
                if kind not in self._said:
                    self._said.add(kind)
                    warnings.warn(f"{name}: {sentence}", stacklevel=4)
        return {"sample": sample, "points": points, "title": title}

    def _network(self, prepared: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
        batch = self._dataset.collate_batch([entry["sample"] for entry in prepared])
        with self._lock, torch.no_grad():
            load_data_to_device(batch, self.device)
            if type(self.model).forward is not Detector3DTemplate.forward:  # a plug-in's
                return self.model(batch), prepared
            for module in self.model.module_list:
                batch = module(batch)
        return batch, prepared

    def _decode(self, result: tuple[Any, list[dict[str, Any]]]) -> list[Detections]:
        batch, prepared = result
        predictions, _ = self.model.post_processing(batch) if isinstance(batch, dict) else batch
        found = []
        for prediction, entry in zip(predictions, prepared):
            boxes, scores, labels = (
                prediction[key].detach().cpu().numpy() for key in ("pred_boxes", "pred_scores", "pred_labels")
            )
            labels = labels.astype(np.int64)
            found.append(
                Detections(
                    boxes=boxes.astype(np.float32),
                    scores=scores.astype(np.float32),
                    labels=labels,
                    names=np.array(self.class_names)[labels - 1],
                    points=entry["points"],
                    title=entry["title"],
                    point_cloud_range=self._dataset.point_cloud_range,
                )
            )
        return found

    def _detect(self, prepared: list[dict[str, Any]]) -> list[Detections]:
        return self._decode(self._network(prepared))

    def _stream(self, scans: Iterable[Scan]) -> Iterator[Detections]:
        numbered = enumerate(scans)
        batches = overlapped(
            numbered,
            lambda entry: [self._prepare(entry[1], f"scan {entry[0]}: ")],
            self._network,
            self._decode,
        )
        return (found for (found,) in batches)


def _dataset_of(cfg: Any) -> DatasetTemplate:
    """What prepares scans as training did, without a folder of data."""
    return DatasetTemplate(cfg.DATA_CONFIG, list(cfg.CLASS_NAMES), training=False, root_path=Path())
