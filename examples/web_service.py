"""A web service: upload a scan, get its boxes as JSON; a page shows them in 3-D.

    python examples/web_service.py model.pth --port 8000
    curl --data-binary @scan.bin "http://localhost:8000/detect?name=scan.bin"

For one machine and people you trust: it has no login and no encryption.
"""

import argparse
import json
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pcdet_focal import Detector
from pcdet_focal.errors import InputError

MAX_BYTES = 256 * 2**20
PAGE = """<!doctype html><meta charset="utf-8"><title>pcdet_focal</title>
<style>body{font:15px sans-serif;margin:1em}iframe{width:100%;height:70vh;border:1px solid #999}</style>
<p><input type="file" id="file"> <span id="said">choose a scan</span></p>
<iframe id="view"></iframe><pre id="boxes"></pre>
<script>
document.getElementById('file').onchange = async event => {
  const file = event.target.files[0], said = document.getElementById('said');
  said.textContent = 'working';
  const answer = await fetch('/detect?view=1&name=' + encodeURIComponent(file.name), {method: 'POST', body: file});
  const found = await answer.json();
  said.textContent = found.error || found.objects.length + ' objects';
  document.getElementById('view').srcdoc = found.view || '';
  document.getElementById('boxes').textContent = JSON.stringify(found.objects || [], null, 1);
};
</script>"""


class Handler(BaseHTTPRequestHandler):
    detector: Detector
    score_thresh: float

    def do_GET(self):
        known = urlsplit(self.path).path == "/"
        self.answer(200 if known else 404, PAGE if known else "there is / and /detect", "text/html")

    def do_POST(self):
        query = parse_qs(urlsplit(self.path).query)
        size = int(self.headers.get("Content-Length") or 0)
        if urlsplit(self.path).path != "/detect" or not 0 < size <= MAX_BYTES:
            return self.answer(400, json.dumps({"error": f"POST a scan of at most {MAX_BYTES} bytes to /detect"}))
        name = Path(query.get("name", ["scan.bin"])[0].replace("\\", "/")).name or "scan.bin"
        with tempfile.TemporaryDirectory() as folder:
            scan = Path(folder) / name
            scan.write_bytes(self.rfile.read(size))
            try:
                found = self.detector(scan).above(self.score_thresh)
            except InputError as error:
                return self.answer(400, json.dumps({"error": str(error).replace(f"{folder}/", "")}))
            content = found.to_dict()
            if "view" in query:
                content["view"] = found.html(Path(folder) / "view.html").read_text(encoding="utf-8")
        self.answer(200, json.dumps(content))

    def answer(self, status, text, kind="application/json"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--score_thresh", type=float, default=0.3)
    args = parser.parse_args(argv)
    Handler.detector, Handler.score_thresh = Detector.load(args.checkpoint), args.score_thresh
    Handler.detector.warm_up()
    server = ThreadingHTTPServer((args.host, args.port), Handler)
    print(f"http://{args.host}:{server.server_port}", flush=True)
    return server


if __name__ == "__main__":
    serve().serve_forever()
