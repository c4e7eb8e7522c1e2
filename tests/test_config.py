"""Loading, merging, overriding configurations, and what a user's mistake is answered with."""

import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from easydict import EasyDict
from golden_data import record
from model_data import REPOSITORY, dataset_like, load_cfg
from openpcdet import needs_openpcdet, peer_folder, peer_module

from pcdet_focal.config import (
    MissingKeyError,
    cfg_from_list,
    cfg_from_yaml_file,
    find_base_config,
    merge_new_config,
    read_yaml,
)
from pcdet_focal.datasets import build_dataloader
from pcdet_focal.errors import InputError
from pcdet_focal.models import build_network

SMALL = dict(
    class_names=["Car", "Pedestrian", "Cyclist"],
    grid_size=[64, 64, 1],
    voxel_size=[0.16, 0.16, 4],
    point_cloud_range=[0, -5.12, -3, 10.24, 5.12, 1],
    num_point_features=4,
)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def tree(tmp_path):
    write(tmp_path / "cfgs/base/data.yaml", "VOXEL_SIZE: [0, 1]\nMLPS: [1, 2, 3]\nPREPARE: {LR: 1, MOMENTUM: 2}\n")
    return write(
        tmp_path / "cfgs/models/model.yaml",
        "DATA_CONFIG:\n  _BASE_CONFIG_: cfgs/base/data.yaml\n  MLPS: [9]\n  PREPARE: {MOMENTUM: 3}\nLR: 1e-3\n",
    )


def test_base_file_is_found_from_any_folder_and_merged_key_by_key(tree, tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "cfgs/models"):
        monkeypatch.chdir(folder)
        cfg = cfg_from_yaml_file(tree, EasyDict())
        assert cfg.DATA_CONFIG.VOXEL_SIZE == [0, 1]
        assert cfg.DATA_CONFIG.MLPS == [9]
        assert dict(cfg.DATA_CONFIG.PREPARE) == {"LR": 1, "MOMENTUM": 3}
        assert cfg.LR == 1e-3 and isinstance(cfg.LR, float)


def test_missing_key_names_path_file_and_a_likely_typo(tree, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = cfg_from_yaml_file(tree, EasyDict())
    expected = r"model\.yaml: .*DATA_CONFIG\.PREPARE\.MOMENTUN .*MOMENTUM.*test_config"
    with pytest.raises(MissingKeyError, match=expected):
        cfg.DATA_CONFIG.PREPARE.MOMENTUN
    with pytest.raises(KeyError):
        cfg.DATA_CONFIG["NO_SUCH"]
    assert not hasattr(cfg.DATA_CONFIG, "NO_SUCH") and cfg.DATA_CONFIG.get("NO_SUCH", 5) == 5
    with pytest.raises(InputError, match=r"DATA_CONFIG\.PREPARE\.MOMENTUN"):
        copy.deepcopy(cfg).DATA_CONFIG.PREPARE.MOMENTUN
    assert pickle.loads(pickle.dumps(cfg)).DATA_CONFIG.VOXEL_SIZE == [0, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("A: [1, 2\nB: 3\n", r"bad\.yaml:2: "),
        ("A: 1\nB: 2\nA: 3\n", r"bad\.yaml:3: .*\bA\b"),
        ("", r"bad\.yaml: "),
        ("_BASE_CONFIG_: cfgs/none.yaml\n", r"_BASE_CONFIG_ cfgs/none\.yaml"),
        ("_BASE_CONFIG_: bad.yaml\n", r"_BASE_CONFIG_.*bad\.yaml"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        cfg_from_yaml_file(write(tmp_path / "bad.yaml", text), EasyDict())
    with pytest.raises(InputError, match=r"gone\.yaml"):
        cfg_from_yaml_file(tmp_path / "gone.yaml", EasyDict())


def test_missing_key_names_the_class_that_reads_it():
    cfg = load_cfg("pointpillar")
    cfg.MODEL.DENSE_HEAD.pop("ANCHOR_GENERATOR_CONFIG")
    with pytest.raises(
        MissingKeyError,
        match=r"pointpillar\.yaml: .* MODEL\.DENSE_HEAD\.ANCHOR_GENERATOR_CONFIG .*AnchorHeadSingle",
    ):
        build_network(cfg.MODEL, 3, dataset_like(SMALL))
    cfg.DATA_CONFIG.pop("DATASET")
    with pytest.raises(MissingKeyError, match=r"DATA_CONFIG\.DATASET .*pcdet_focal\.datasets"):
        build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 1, dist=False)


def test_unknown_keys_are_reported_once_with_their_nearest_neighbour(tmp_path):
    path = write(
        tmp_path / "typo.yaml",
        "MODEL: {DENSE_HEAD: {USE_DIRECTION_CLASIFIER: True, ANCHOR_GENERATOR_CONFIG: [{class_name: Car, anchor_size: "
        "1}]}}\n",
    )
    with pytest.warns(UserWarning) as caught:
        cfg_from_yaml_file(path, EasyDict())
        cfg_from_yaml_file(path, EasyDict())
    for warning, named in zip(
        caught,
        (
            r"typo\.yaml: .*MODEL\.DENSE_HEAD\.USE_DIRECTION_CLASIFIER\b.*\bUSE_DIRECTION_CLASSIFIER\b",
            r"typo\.yaml: .*MODEL\.DENSE_HEAD\.ANCHOR_GENERATOR_CONFIG\[0 Car\]\.anchor_size\b.*\banchor_sizes\b",
        ),
        strict=True,
    ):
        assert re.search(named, str(warning.message))


def test_names_that_are_the_users_own_are_no_unknown_keys(tmp_path):
    path = write(
        tmp_path / "own.yaml",
        "MAP_CLASS_TO_KITTI: {Lorry: Car}\nMODEL: {DENSE_HEAD: {SEPARATE_HEAD_CFG: {HEAD_DICT: {age: {out_channels: "
        "1}}}}}\n",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cfg_from_yaml_file(path, EasyDict())


def test_overrides_keep_the_type_of_what_they_replace():
    cfg = EasyDict(
        A=EasyDict(N=1, F=0.5, S="x", L=[1, 2], B=True, LF=[0.5], D=EasyDict(P=1, Q=2.0)), ITEMS=[EasyDict(T=0.6)]
    )
    cfg_from_list(
        [
            "A.N",
            "7",
            "A.F",
            "2",
            "A.S",
            "3",
            "A.L",
            "3,4,5",
            "A.B",
            "false",
            "A.LF",
            "[1, 2]",
            "A.D",
            "P:4,Q:1",
            "ITEMS.0.T",
            "0.7",
        ],
        cfg,
    )
    assert (
        cfg.A == EasyDict(N=7, F=2.0, S="3", L=[3, 4, 5], B=False, LF=[1.0, 2.0], D=EasyDict(P=4, Q=1.0))
        and cfg.ITEMS[0].T == 0.7
    )
    assert isinstance(cfg.A.F, float) and isinstance(cfg.A.LF[0], float)
    cfg_from_list(["A.L", "[one.pkl, two.pkl]"], cfg)
    assert cfg.A.L == ["one.pkl", "two.pkl"]
    cfg_from_list(["OPTIMIZATION.USE_AMP", "True"], cfg)  # not in the file, but a key of this package
    assert cfg.OPTIMIZATION.USE_AMP is True


@pytest.mark.parametrize(
    "pairs, message",
    [
        (["A.N"], r"'A\.N'"),
        (["A.M", "1"], r"--set A\.M: .*\bN\b"),
        (["B.N", "1"], r"--set B\.N: .*\bB\b"),
        (["A.N", "x"], r"--set A\.N x: .*str.*int"),
        (["ITEMS.3.T", "1"], r"--set ITEMS\.3\.T: .*\b3\b"),
        (["A.N", "[1, x"], r"--set A\.N \[1, x: "),
    ],
)
def test_overrides_that_cannot_be_are_refused(pairs, message):
    with pytest.raises(InputError, match=message):
        cfg_from_list(pairs, EasyDict(A=EasyDict(N=1), ITEMS=[EasyDict(T=0.6)]))


@pytest.mark.parametrize("name", ["second", "pointpillar"])
def test_shipped_model_files_agree_with_the_recorded_models(name):
    recorded = json.loads(record(f"04_state_dicts/kitti_models__{name}.json").read_text())
    cfg = cfg_from_yaml_file(Path(__file__).parents[1] / f"cfgs/kitti_models/{name}.yaml", EasyDict())
    voxels = next(p for p in cfg.DATA_CONFIG.DATA_PROCESSOR if p["NAME"] == "transform_points_to_voxels")
    assert cfg.CLASS_NAMES == recorded["class_names"]
    assert cfg.DATA_CONFIG.POINT_CLOUD_RANGE == pytest.approx(recorded["point_cloud_range"])
    assert voxels["VOXEL_SIZE"] == pytest.approx(recorded["voxel_size"])


def test_keys_that_hold_a_name_or_a_mapping_take_both():
    path = "MODEL.DENSE_HEAD.LOSS_CONFIG.CLS_LOSS"
    config = EasyDict(MODEL=EasyDict(DENSE_HEAD=EasyDict(LOSS_CONFIG=EasyDict(LOSS_WEIGHTS=EasyDict(cls_weight=1.0)))))
    loss_config = config.MODEL.DENSE_HEAD.LOSS_CONFIG
    cfg_from_list([path, "QualityFocalLoss"], config)
    assert loss_config.CLS_LOSS == "QualityFocalLoss"
    cfg_from_list([path, "{NAME: VarifocalLoss, ALPHA: 0.5}"], config)
    assert loss_config.CLS_LOSS == {"NAME": "VarifocalLoss", "ALPHA": 0.5}
    cfg_from_list([f"{path}.ALPHA", "0.25", "MODEL.DENSE_HEAD.LOSS_CONFIG.NORMALIZER", "batch"], config)
    assert loss_config.CLS_LOSS.ALPHA == 0.25 and loss_config.NORMALIZER == "batch"
    cfg_from_list([path, "GHMC"], config)
    assert loss_config.CLS_LOSS == "GHMC" and loss_config.LOSS_WEIGHTS.cls_weight == 1.0


def test_a_base_file_can_be_merged_from_the_command_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text("CLS_LOSS: {NAME: FocalLoss}\nLOSS_WEIGHTS: {loc_weight: 1.0}\n")
    config = EasyDict(LOSS_CONFIG=EasyDict(LOSS_WEIGHTS=EasyDict(cls_weight=1.0, loc_weight=2.0)))
    cfg_from_list(["LOSS_CONFIG._BASE_CONFIG_", str(tmp_path / "recipe.yaml")], config)
    assert config.LOSS_CONFIG.pop("_BASE_CONFIG_").endswith("recipe.yaml")  # stays, as in a file
    assert config.LOSS_CONFIG == {
        "LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 1.0},
        "CLS_LOSS": {"NAME": "FocalLoss"},
    }
    with pytest.raises(InputError, match="nowhere.yaml"):
        cfg_from_list(["LOSS_CONFIG._BASE_CONFIG_", "nowhere.yaml"], config)


def test_an_installed_package_writes_below_the_working_directory(tmp_path):
    package = REPOSITORY / "pcdet_focal"
    (tmp_path / "site/pcdet_focal").mkdir(parents=True)
    for name in ("__init__", "config", "config_keys", "errors", "files", "paths", "registry"):
        shutil.copy(package / f"{name}.py", tmp_path / "site/pcdet_focal")
    for folder, expected in ((tmp_path / "site", tmp_path), (REPOSITORY, REPOSITORY)):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {str(folder)!r}); from pcdet_focal.config import cfg; "
                "print(cfg.ROOT_DIR)",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert done.stdout.strip() == str(expected), done.stderr


# ---- OpenPCDet's own rules: what its code gives is written beside each case, and asked of its code itself where a
# checkout is at hand ----

BEFORE = {"A": {"N": 1, "F": 0.5, "S": "x", "L": [1, 2], "W": ["a", "b"], "B": True, "D": {"P": 1, "Q": 2.0}}}
OVERRIDES = [  # --set pairs, what becomes of A
    (["A.N", "7"], {"N": 7}),
    (["A.F", "2.5"], {"F": 2.5}),
    (["A.F", "1e-3"], {"F": 0.001}),
    (["A.S", "y"], {"S": "y"}),
    (["A.S", "'7'"], {"S": "7"}),
    (["A.B", "False"], {"B": False}),
    (["A.L", "[3]"], {"L": [3]}),
    (["A.L", "['a', 0.5]"], {"L": ["a", 0.5]}),
    (["A.W", "c,d,e"], {"W": ["c", "d", "e"]}),
    (["A.W", "1,x"], {"W": ["1", "x"]}),
    (["A.D", "P:4"], {"D": {"P": 4, "Q": 2.0}}),
    (["A.D", "P:4,Q:1"], {"D": {"P": 4, "Q": 1.0}}),
    (["A.D.Q", "3.0", "A.N", "2"], {"D": {"P": 1, "Q": 3.0}, "N": 2}),
]
MERGES = [  # what is there, what comes, what it becomes
    ({"A": {"X": 1, "Y": {"Z": 1}}}, {"A": {"Y": {"W": 2}}}, {"A": {"X": 1, "Y": {"Z": 1, "W": 2}}}),
    ({"L": [1, 2, 3]}, {"L": [9]}, {"L": [9]}),
    ({"L": [{"NAME": "a", "T": 1}]}, {"L": [{"NAME": "a"}]}, {"L": [{"NAME": "a"}]}),
    ({"A": {"X": 1}}, {"A": None}, {"A": None}),
    ({"A": {"X": 1}}, {"A": 5, "B": {"C": {}}}, {"A": 5, "B": {"C": {}}}),
    ({"A": {"X": 1}}, {"A": {"B": "text"}}, {"A": {"X": 1, "B": "text"}}),
    (
        {"D": {"PREPARE": {"OLD": 1}, "KEPT": 1}},
        {"D": {"_BASE_CONFIG_": "base.yaml", "PREPARE": {"NEW": 2}}},
        {"D": {"PREPARE": {"LR": 1, "NEW": 2}, "KEPT": 1, "MLPS": [1, 2], "_BASE_CONFIG_": "base.yaml"}},
    ),
]


@pytest.fixture(params=["here", pytest.param("there", marks=needs_openpcdet)])
def rules(request):
    """The three functions of this package, and OpenPCDet's own."""
    if request.param == "there":
        return peer_module("config")
    return SimpleNamespace(cfg_from_list=cfg_from_list, merge_new_config=merge_new_config)


@pytest.mark.parametrize("pairs, changed", OVERRIDES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_overrides_as_in_openpcdet(rules, pairs, changed):
    config = EasyDict(copy.deepcopy(BEFORE))
    section = config.A.D
    rules.cfg_from_list(pairs, config)
    assert config == {"A": {**BEFORE["A"], **changed}}
    assert [type(v) for v in config.A.values()] == [
        EasyDict if isinstance(v, dict) else type(v) for v in {**BEFORE["A"], **changed}.values()
    ]
    assert config.A.D is section and type(config.A.D.Q) is float


@pytest.mark.parametrize("before, new, after", MERGES)
def test_merging_as_in_openpcdet(rules, before, new, after, tmp_path, monkeypatch):
    write(tmp_path / "base.yaml", "PREPARE: {LR: 1}\nMLPS: [1, 2]\n")
    monkeypatch.chdir(tmp_path)
    config = EasyDict(before)
    assert rules.merge_new_config(config, new) is config
    assert config == after


@needs_openpcdet
def test_every_yaml_of_openpcdet_loads_as_there_without_a_warning(monkeypatch):
    monkeypatch.chdir(peer_folder() / "tools")
    there, files = peer_module("config"), sorted(Path("cfgs").rglob("*.yaml"))
    assert len(files) > 60
    for file in files:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = cfg_from_yaml_file(file, EasyDict())
        if file.name == "pv_rcnn.yaml" and file.parent.name == "custom_models":
            continue  # its _BASE_CONFIG_ is written for another working directory, so OpenPCDet cannot load it
        expected = there.cfg_from_yaml_file(file, EasyDict())
        assert loaded == expected and list(loaded) == list(expected), file
        for pairs in (["OPTIMIZATION.LR", "0.5", "CLASS_NAMES", "a,b"], ["MODEL.NAME", "Other"]):
            if "OPTIMIZATION" in loaded:
                cfg_from_list(pairs, loaded)
                there.cfg_from_list(pairs, expected)
                assert loaded == expected, file


@needs_openpcdet
def test_a_second_file_over_a_first_one_as_there(monkeypatch):
    monkeypatch.chdir(peer_folder() / "tools")
    files = ["cfgs/waymo_models/second.yaml", "cfgs/kitti_models/pointpillar.yaml"]
    ours, expected = EasyDict(), EasyDict()
    for file in files:
        cfg_from_yaml_file(file, ours)
        peer_module("config").cfg_from_yaml_file(file, expected)
    assert ours == expected


def test_keys_and_names_of_classes_are_text(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "CLASS_NAMES: [0, yes, 1.5, 2020-01-01, Car]\n"
        "MAP_CLASS_TO_KITTI: {0: Car, on: 7}\n"
        "DATA_CONFIG: {SAMPLE_GROUPS: ['0:15', 1:15]}\n"
        "MODEL: {DENSE_HEAD: {ANCHOR_GENERATOR_CONFIG: [{class_name: 0, anchor_rotations: [0, 1.57]}]}}\n"
        "OPTIMIZATION: {LR: 3, LR_WARMUP: no}\n"
    )
    read = read_yaml(tmp_path / "a.yaml")
    assert read["CLASS_NAMES"] == ["0", "yes", "1.5", "2020-01-01", "Car"]
    assert read["MAP_CLASS_TO_KITTI"] == {"0": "Car", "on": "7"}
    assert read["DATA_CONFIG"]["SAMPLE_GROUPS"] == ["0:15", "1:15"]
    entry = read["MODEL"]["DENSE_HEAD"]["ANCHOR_GENERATOR_CONFIG"][0]
    assert entry == {"class_name": "0", "anchor_rotations": [0, 1.57]}
    assert read["OPTIMIZATION"] == {"LR": 3, "LR_WARMUP": False}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"? [a, b]\n: 1\n", r"a\.yaml:1: a key is a word, not"),
        (b"A: '\x01'\n", r"a\.yaml: the character 0x1 has no place in YAML"),
        (b"A: 1\nB: \xe9\n", r"a\.yaml, line 2: byte 8 of the file, 0xe9,"),
        (b"A: " + b"[" * 3000, r"a\.yaml: its mappings and lists are too deep"),
        (b"A: 1\0\n", r"a\.yaml, line 1: byte 4 of the file, 0x00, is NUL"),
    ],
)
def test_files_that_are_no_yaml(tmp_path, content, told):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_yaml(tmp_path / "a.yaml")


def test_a_configuration_from_windows_reads_the_same(tmp_path):
    text = "CLASS_NAMES: [Car]\nMODEL: {NAME: groß}\n"
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "b.yaml").write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    assert read_yaml(tmp_path / "a.yaml") == read_yaml(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    "name", ["/home/them/OpenPCDet/tools/cfgs/dataset_configs/a.yaml", "D:\\work\\cfgs\\dataset_configs\\a.yaml"]
)
def test_a_base_file_of_another_machine_is_found_by_its_last_folders(tmp_path, name):
    (tmp_path / "cfgs/dataset_configs").mkdir(parents=True)
    (tmp_path / "cfgs/models").mkdir()
    (tmp_path / "cfgs/dataset_configs/a.yaml").write_text("")
    named_in = tmp_path / "cfgs/models/b.yaml"
    with pytest.warns(UserWarning, match=r"b\.yaml: _BASE_CONFIG_ .* does not exist here; .*a\.yaml is used"):
        assert find_base_config(name, named_in) == tmp_path / "cfgs/dataset_configs/a.yaml"
    (tmp_path / "cfgs/dataset_configs/a.yaml").rename(tmp_path / "cfgs/models/a.yaml")  # one word is too little
    with pytest.raises(InputError, match=r"b\.yaml: _BASE_CONFIG_ .*a\.yaml is neither"):
        find_base_config(name, named_in)
    with pytest.raises(InputError, match="is the path of a YAML file, not 3"):
        find_base_config(3, named_in)
