"""Photographs the top of a run's page for README and site. Needs Chromium.

python docs/make_screenshot.py runs/demo
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parent / "images" / "demo.png"
WIDTH, HEIGHT, SCALE = 1200, 1264, 1.5
COLOURS = 256
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars"
)


def photograph(page: Path, picture: Path) -> None:
    """Write the top of a page as a PNG of few colours."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium not found; install it, e.g. apt install chromium")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.png"
        size = [f"--window-size={WIDTH},{HEIGHT}", f"--force-device-scale-factor={SCALE}", f"--user-data-dir={folder}/profile"]
        command = [browser, *FLAGS.split(), *size, f"--screenshot={whole}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        shown = Image.open(whole).convert("RGB")
    shown.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    photograph(arguments.run / "report.html", arguments.out)
