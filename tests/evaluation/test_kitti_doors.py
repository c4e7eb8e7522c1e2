"""The modules that carry OpenPCDet's names."""

import numpy as np
import pytest

from pcdet_focal.datasets.kitti.kitti_object_eval_python import eval as kitti_eval
from pcdet_focal.datasets.kitti.kitti_object_eval_python import evaluate as command
from pcdet_focal.datasets.kitti.kitti_object_eval_python import kitti_common
from pcdet_focal.errors import InputError
from pcdet_focal.evaluation.kitti import evaluate_kitti

LINE = "Car 0.00 0 0.30 {left:.2f} 100.00 {right:.2f} 160.00 1.50 2.00 4.00 {x:.2f} 1.60 30.00 0.00"


def write_frames(folder, frames, shift=0.0, scores=False):
    """45 cars in each of the frames, 4 m long along x; ``shift`` moves them along."""
    folder.mkdir()
    for frame in frames:
        lines = [
            LINE.format(left=i * 100, right=i * 100 + 80, x=i * 20 + shift)
            + (f" {0.9 - i / 100:.4f}" if scores else "")
            for i in range(45)
        ]
        (folder / f"{frame:06d}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def folders(tmp_path):
    labels = write_frames(tmp_path / "label_2", [1, 3, 4])
    results = write_frames(tmp_path / "results", [1, 3, 4], shift=1.0, scores=True)  # IoU 3 / 5
    split = tmp_path / "val.txt"
    split.write_text("000003\n000001\n")
    return labels, results, split


def test_official_result(folders):
    labels, results, _ = folders
    gt, dt = kitti_common.get_label_annos(labels), kitti_common.get_label_annos(results)
    curves = {}
    text, numbers = kitti_eval.get_official_eval_result(gt, dt, ["Car", "Pedestrian"], PR_detail_dict=curves)
    assert text.startswith(
        "Car AP@0.70, 0.70, 0.70:\nbbox AP:100.0000, 100.0000, 100.0000\nbev  AP:0.0000, 0.0000, 0.0000\n"
    )
    assert numbers["Car_image/moderate_R40"] == pytest.approx(100) and numbers["Car_3d/moderate_R40"] == 0
    assert {key: value.shape for key, value in curves.items()} == {
        key: (2, 3, 2, 41) for key in ("bbox", "bev", "3d", "aos")
    }
    assert curves["3d"][0, :, 0].max() == 0 and curves["3d"][0, :, 1].min() == 1 and curves["3d"][1].max() == 0
    result = evaluate_kitti(gt, dt, ["Car", "Pedestrian"])
    recalls = result.recalls_by_metric()
    for key, value in result.curves_by_metric().items():
        np.testing.assert_array_equal(value, curves[key])
        assert recalls[key].shape == value.shape
    # 135 cars in threes of one score, all of them found
    np.testing.assert_allclose(recalls["3d"][0, 1, 1], np.arange(41) / 40, atol=3 / 135)
    assert (
        recalls["3d"][0, :, 0].max() == 0 and recalls["bbox"][0, :, :, -1].min() == 1 and recalls["aos"][1].max() == 0
    )
    assert kitti_eval.get_official_eval_result(gt, dt, 0)[1] == {
        key: value for key, value in numbers.items() if key.startswith("Car")
    }


def test_curves_of_one_metric_have_the_running_maximum_and_need_no_3d_boxes(folders):
    labels, results, _ = folders
    gt, dt = kitti_common.get_label_annos(labels), kitti_common.get_label_annos(results)
    overlaps = np.full((1, 3, 1), 0.5)
    whole = kitti_eval.eval_class(gt, dt, [0], [0, 2], 0, overlaps, compute_aos=True)
    assert {key: value.shape for key, value in whole.items()} == {
        key: (1, 2, 1, 41) for key in ("precision", "recall", "orientation")
    }
    assert whole["recall"].min() == 1  # all found at the last score
    for anno in gt + dt:
        del anno["dimensions"], anno["location"], anno["rotation_y"]
    flat = kitti_eval.eval_class(gt, dt, [0], [0, 2], 0, overlaps, compute_aos=True)
    for key, value in whole.items():
        np.testing.assert_array_equal(flat[key], value)
    with pytest.raises(InputError, match="dimensions"):
        kitti_eval.eval_class(gt, dt, [0], [0, 2], 2, overlaps)


def test_coco_style_result(folders):
    labels, results, _ = folders
    text = kitti_eval.get_coco_eval_result(
        kitti_common.get_label_annos(labels), kitti_common.get_label_annos(results), "Car"
    )
    # of the overlaps .5, .55 ... .95 an IoU of .6 exceeds the first two, perhaps .6 itself
    lines = text.splitlines()
    assert lines[0] == "Car coco AP@0.50:0.05:0.95:"
    assert lines[1] == "bbox AP:100.00, 100.00, 100.00"
    assert lines[2] in ("bev  AP:20.00, 20.00, 20.00", "bev  AP:30.00, 30.00, 30.00")
    assert lines[4] == "aos  AP:100.00, 100.00, 100.00"


def test_command(folders, capsys):
    labels, results, split = folders
    arguments = ["--label_path", str(labels), "--result_path", str(results), "--label_split_file", str(split)]
    assert command.main(["evaluate", *arguments, "--current_class", "Car"]) == 0
    text = capsys.readouterr().out
    assert "Car AP_R40@0.70, 0.50, 0.50:" in text and "2 frames" in text and "Car detections: 90 in all" in text
    assert command.main([*arguments, "--score_thresh", "0.8"]) == 0
    assert "Car detections: 22 in all" in capsys.readouterr().out  # 0.90, 0.89 ... 0.80 in two frames
    assert command.main([*arguments, "--coco=True", "--current_class", "0"]) == 0
    assert capsys.readouterr().out.startswith("Car coco")
    (results / "000003.txt").unlink()
    assert command.main(arguments) == 2
    assert "000003.txt" in capsys.readouterr().err
    split.write_text("1\nthree\n")
    assert command.main(arguments) == 2
    assert "three.txt" in capsys.readouterr().err


def test_the_command_takes_frames_of_any_name_and_class_numbers_with_commas(folders, tmp_path, capsys):
    labels, results, split = folders
    for folder in (labels, results):
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"drive_{number}.txt")
    split.write_bytes("drive_2\r\ndrive_0\r\n".encode("utf-16"))
    arguments = [f"--label_path={labels}", f"--result_path={results}", f"--label_split_file={split}"]
    assert command.main([*arguments, "--current_class=0,2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Car AP@") and "Cyclist AP@" in out and "Pedestrian" not in out


def test_ground_truth_without_rectangles_is_said_beside_the_figures(folders):
    labels, results, _ = folders
    path = labels / "000003.txt"
    path.write_text(path.read_text().replace("100.00", "0.00").replace("160.00", "0.00"))
    gt, dt = kitti_common.get_label_annos(labels), kitti_common.get_label_annos(results)
    text, _ = kitti_eval.get_official_eval_result(gt, dt, ["Car"])
    assert "Car note: 45 ground truths have no 2-D rectangle (bbox)" in text
    gt[1]["bbox"][:] = gt[0]["bbox"]
    assert "no 2-D rectangle" not in kitti_eval.get_official_eval_result(gt, dt, ["Car"])[0]


def test_filters():
    anno = {
        "name": np.array(["Car", "DontCare", "Van", "Car"]),
        "bbox": np.array([[0, 0, 10, 10], [0, 0, 8, 10], [50, 0, 60, 30], [20, 0, 30, 41.0]]),
        "truncated": np.array([0, -1, 0.2, 0]),
        "occluded": np.array([0, -1, 0, 0]),
        "score": np.array([0.1, 0.5, 0.7, 0.9]),
        "frame_id": "000001",
        "gt_boxes_lidar": np.zeros((3, 7)),
    }
    kept = kitti_common.filter_kitti_anno(anno, ["Car"])
    assert (
        kept["name"].tolist() == ["Car", "Car"]
        and kept["score"].tolist() == [0.1, 0.9]
        and kept["frame_id"] == "000001"
    )
    assert kitti_common.filter_kitti_anno(anno, "Van")["bbox"].tolist() == [[50, 0, 60, 30]]
    kept = kitti_common.filter_kitti_anno(anno, ["Car", "DontCare"], dontcare_iou=0.7)
    assert kept["score"].tolist() == [0.9]  # the first car has IoU 0.8 with the region
    kept = kitti_common.filter_kitti_anno(anno, ["Car", "DontCare"], dontcare_iou=0.8)
    assert kept["score"].tolist() == [0.1, 0.9]  # not greater
    assert kitti_common.filter_annos_low_score([anno], 0.5)[0]["name"].tolist() == ["DontCare", "Van", "Car"]
    info = {"annos": anno}
    assert kitti_common.add_difficulty_to_annos(info) == [-1, -1, 1, 0]
    assert kitti_common.filter_kitti_anno(info["annos"], ["Car", "Van"], used_difficulty=[0, 1])["name"].tolist() == [
        "Van",
        "Car",
    ]
    np.testing.assert_allclose(kitti_common.iou(anno["bbox"][:1], anno["bbox"]), [[1, 0.8, 0, 0]])
    np.testing.assert_allclose(kitti_common.area(anno["bbox"][:2], add1=True), [121, 99])


def test_paths(tmp_path):
    (tmp_path / "training" / "calib").mkdir(parents=True)
    path = tmp_path / "training" / "calib" / "000009.txt"
    path.write_text("")
    assert kitti_common.get_calib_path(9, tmp_path, relative_path=False) == str(path)
    assert kitti_common.get_calib_path("000009", tmp_path) == str(path.relative_to(tmp_path))
    assert kitti_common.get_image_index_str(12) == "000012"
    with pytest.raises(InputError, match=r"000009\.png"):
        kitti_common.get_image_path(9, tmp_path)
