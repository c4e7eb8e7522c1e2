"""A scan with boxes as one HTML file for a browser: plain WebGL, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .canvas import DETECTION, GROUND_TRUTH
from .inputs import as_boxes, as_captions, as_points, footprints

MAX_POINTS = 60000


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode("ascii")


def _box_lines(boxes: np.ndarray) -> np.ndarray:
    """(n * 13 * 2, 3) ends of each box's 12 edges and its heading tick."""
    flat = footprints(boxes)  # (n, 4, 2)
    low, high = boxes[:, 2] - boxes[:, 5] / 2, boxes[:, 2] + boxes[:, 5] / 2
    corners = np.concatenate(
        [np.concatenate([flat, np.broadcast_to(z[:, None, None], (len(boxes), 4, 1))], axis=2) for z in (low, high)],
        axis=1,
    )
    edges = [0, 1, 1, 2, 2, 3, 3, 0, 4, 5, 5, 6, 6, 7, 7, 4, 0, 4, 1, 5, 2, 6, 3, 7]
    front = corners[:, [0, 1]].mean(axis=1)
    forward = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))], axis=1)
    tick = np.stack([front, front + forward], axis=1)
    return np.concatenate([corners[:, edges], tick], axis=1).reshape(-1, 3)


def write_scene_html(
    points: Any,
    gt_boxes: Any = None,
    pred_boxes: Any = None,
    gt_names: Any = None,
    pred_names: Any = None,
    pred_scores: Any = None,
    path: str | Path = "scene.html",
    title: str = "scan",
) -> Path:
    """Writes a page that shows the scan in 3-D: drag turns, right drag or shift moves, wheel zooms, buttons show and
    hide the boxes.

    Args:
        points: (N, 3 or more) x, y, z, ...; of more than 60000 an even choice is kept (the same one each time)
        gt_boxes, pred_boxes: (n, 7 or more) x, y, z, dx, dy, dz, heading; rows of zero size are not drawn
        gt_names, pred_names, pred_scores: one a box, texts or class numbers

    Returns:
        the path

    Raises:
        InputError: arrays of a wrong shape or length, a path that cannot be written
    """
    points = as_points(points)[:, :3]
    total = len(points)
    if total > MAX_POINTS:
        points = points[np.linspace(0, total - 1, MAX_POINTS).astype(np.int64)]
    sets = []
    for name, colour, boxes, names, scores in (
        ("ground truth", GROUND_TRUTH, as_boxes(gt_boxes, "gt_boxes"), gt_names, None),
        ("detections", DETECTION, as_boxes(pred_boxes, "pred_boxes"), pred_names, pred_scores),
    ):
        texts = as_captions(names, scores, len(boxes), name)
        real = np.all(boxes[:, 3:6] > 0, axis=1)  # (N,)
        boxes = boxes[real]
        tops = boxes[:, :3] + np.array([0.0, 0.0, 0.5]) * boxes[:, 3:6]
        sets.append(
            {
                "name": f"{name} ({len(boxes)})",
                "colour": colour,
                "lines": _encode(_box_lines(boxes)),
                "tops": np.round(tops, 3).tolist(),
                "texts": [text for text, keep in zip(texts, real.tolist()) if keep],
            }
        )
    low, high = np.percentile(points[:, 2], [1, 99]) if len(points) else (-2.0, 1.0)
    data = {
        "points": _encode(points),
        "low": float(low),
        "high": float(max(high, low + 0.1)),
        "sets": sets,
        "note": f"{total} points" + (f", {MAX_POINTS} shown" if total > MAX_POINTS else ""),
    }
    text = json.dumps(data).replace("<", "\\u003c")  # no text of a caller can end the script
    page = _PAGE.replace("__TITLE__", html.escape(title)).replace("__DATA__", text)
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"The page cannot be written to {path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>__TITLE__</title><style>
body { margin: 0; overflow: hidden; background: #14171c; color: #dfe3e8; font: 13px system-ui, sans-serif; }
canvas { position: absolute; width: 100vw; height: 100vh; } #flat { pointer-events: none; }
#panel { position: absolute; left: 12px; top: 10px; background: #14171ccc; padding: 6px 10px; border-radius: 6px; }
label { display: block; cursor: pointer; } small { color: #98a1ac; }
</style></head><body><canvas id="scene"></canvas><canvas id="flat"></canvas>
<div id="panel"><b>__TITLE__</b><div id="switches"></div><small id="note"></small><br>
<small>drag: turn &middot; shift or right drag: move &middot; wheel: zoom</small></div>
<script>
"use strict";
const data = __DATA__;
const canvas = document.getElementById("scene"), flat = document.getElementById("flat"), pen = flat.getContext("2d");
const gl = canvas.getContext("webgl", {antialias: true});
document.getElementById("note").textContent = gl ? data.note : "This browser has no WebGL.";
const decode = text => new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
const rgb = hex => [1, 3, 5].map(k => parseInt(hex.substr(k, 2), 16) / 255);
function shader(type, source) { const s = gl.createShader(type); gl.shaderSource(s, source); gl.compileShader(s); return s; }
function program(vertex, fragment) {
  const p = gl.createProgram();
  gl.attachShader(p, shader(gl.VERTEX_SHADER, vertex)); gl.attachShader(p, shader(gl.FRAGMENT_SHADER, fragment));
  gl.bindAttribLocation(p, 0, "place"); gl.linkProgram(p); return p;
}
const dots = program(`attribute vec3 place; uniform mat4 view; uniform vec2 span; uniform float size; varying vec3 colour;
void main() { gl_Position = view * vec4(place, 1.0); gl_PointSize = clamp(size / gl_Position.w, 1.0, 4.0);
  float t = clamp((place.z - span.x) / (span.y - span.x), 0.0, 1.0);
  vec3 middle = vec3(0.25, 0.62, 0.85);
  colour = t < 0.5 ? mix(vec3(0.33, 0.37, 0.45), middle, t * 2.0) : mix(middle, vec3(0.98, 0.90, 0.55), t * 2.0 - 1.0); }`,
  "precision mediump float; varying vec3 colour; void main() { gl_FragColor = vec4(colour, 1.0); }");
const lines = program("attribute vec3 place; uniform mat4 view; void main() { gl_Position = view * vec4(place, 1.0); }",
  "precision mediump float; uniform vec3 colour; void main() { gl_FragColor = vec4(colour, 1.0); }");
function buffer(array) {
  const b = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, b); gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW); return {b, n: array.length / 3};
}
const cloud = buffer(decode(data.points));
for (const set of data.sets) {
  set.buffer = buffer(decode(set.lines)); set.shown = true;
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox"; box.checked = true; box.onchange = () => { set.shown = box.checked; draw(); };
  label.style.color = set.colour; label.append(box, " " + set.name); document.getElementById("switches").append(label);
}
let turn = Math.PI, tilt = 0.45, far = 35, target = [15, 0, 0];   // the eye stands behind the sensor and looks ahead
function basis() {
  const back = [Math.cos(tilt) * Math.cos(turn), Math.cos(tilt) * Math.sin(turn), Math.sin(tilt)];
  const right = [-Math.sin(turn), Math.cos(turn), 0];
  const up = [back[1] * right[2] - back[2] * right[1], back[2] * right[0] - back[0] * right[2], back[0] * right[1] - back[1] * right[0]];
  return {back, right, up};
}
function matrix() {
  const {back, right, up} = basis(), eye = target.map((v, k) => v + far * back[k]);
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const f = 1.6, aspect = canvas.width / canvas.height, near = 0.1, end = 1000, c = (end + near) / (near - end), d = 2 * end * near / (near - end);
  const rows = [[...right.map(v => v * f / aspect), -dot(right, eye) * f / aspect], [...up.map(v => v * f), -dot(up, eye) * f],
                [...back.map(v => v * c), -dot(back, eye) * c + d], [...back.map(v => -v), dot(back, eye)]];
  const m = new Float32Array(16);
  for (let r = 0; r < 4; r++) for (let k = 0; k < 4; k++) m[4 * k + r] = rows[r][k];
  return m;
}
function bind(p, b) {
  gl.useProgram(p); gl.bindBuffer(gl.ARRAY_BUFFER, b);
  gl.enableVertexAttribArray(0); gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
}
function draw() {
  if (!gl) return;
  const ratio = window.devicePixelRatio || 1;
  for (const c of [canvas, flat]) { c.width = innerWidth * ratio; c.height = innerHeight * ratio; }
  gl.viewport(0, 0, canvas.width, canvas.height); gl.clearColor(0.08, 0.09, 0.11, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT); gl.enable(gl.DEPTH_TEST);
  const view = matrix();
  bind(dots, cloud.b);
  gl.uniformMatrix4fv(gl.getUniformLocation(dots, "view"), false, view);
  gl.uniform2f(gl.getUniformLocation(dots, "span"), data.low, data.high); gl.uniform1f(gl.getUniformLocation(dots, "size"), 70 * ratio);
  gl.drawArrays(gl.POINTS, 0, cloud.n);
  pen.font = 12 * ratio + "px system-ui, sans-serif"; pen.textAlign = "center";
  data.sets.forEach((set, which) => {
    if (!set.shown) return;
    bind(lines, set.buffer.b);
    gl.uniformMatrix4fv(gl.getUniformLocation(lines, "view"), false, view); gl.uniform3fv(gl.getUniformLocation(lines, "colour"), rgb(set.colour));
    gl.drawArrays(gl.LINES, 0, set.buffer.n);
    pen.fillStyle = set.colour;
    set.tops.forEach((p, k) => {
      const q = [0, 1, 3].map(r => view[r] * p[0] + view[4 + r] * p[1] + view[8 + r] * p[2] + view[12 + r]);
      if (q[2] > 0.1) pen.fillText(set.texts[k], (q[0] / q[2] + 1) / 2 * flat.width, (1 - q[1] / q[2]) / 2 * flat.height - (4 + 13 * which) * ratio);
    });
  });
}
let held = null;
canvas.onpointerdown = e => { held = {x: e.clientX, y: e.clientY, move: e.shiftKey || e.button === 2}; canvas.setPointerCapture(e.pointerId); };
canvas.onpointerup = () => { held = null; };
canvas.onpointermove = e => {
  if (!held) return;
  const dx = e.clientX - held.x, dy = e.clientY - held.y; held.x = e.clientX; held.y = e.clientY;
  if (held.move) { const {right, up} = basis(), s = far / innerHeight * 1.25; target = target.map((v, k) => v - s * dx * right[k] + s * dy * up[k]); }
  else { turn -= dx * 0.006; tilt = Math.min(1.55, Math.max(-0.3, tilt + dy * 0.006)); }
  draw();
};
canvas.onwheel = e => { e.preventDefault(); far = Math.min(400, Math.max(1, far * Math.exp(e.deltaY * 0.001))); draw(); };
canvas.oncontextmenu = e => e.preventDefault();
window.onresize = draw;
draw();
</script></body></html>
"""
