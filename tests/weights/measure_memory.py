"""Peak memory of assemble and convert on a synthetic file of any size, in Ovi's layout at its full width.

    python tests/weights/measure_memory.py FOLDER --layers 7

makes the file (7 layers are 6.6 GB), runs `harmony assemble`, `harmony convert --to fp8` and back to bf16, prints each
command's largest resident size, and deletes what it made. FOLDER needs three times the file's size.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from limits import peak_bytes
from public_parts import FULL, save_large_ovi


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=7)
    args = parser.parse_args()
    ovi, out, eight = (args.folder / f"measured-{name}.safetensors" for name in ("ovi", "out", "eight"))
    try:
        save_large_ovi(ovi, **{**FULL, "layers": args.layers})
        print(f"file {ovi.stat().st_size / 1e9:.2f} GB")
        for command, made in (
            (("assemble", "--video", ovi, "--audio", ovi, "--out", out), out),
            (("convert", ovi, eight, "--to", "fp8"), eight),
            (("convert", eight, out, "--to", "bf16"), out),
        ):
            begun = time.monotonic()
            peak, seconds = peak_bytes(*command), time.monotonic() - begun
            size = made.stat().st_size
            print(
                f"{command[0]} {command[-1]}: peak {peak / 1e9:.2f} GB, {seconds:.0f} s, wrote {size / 1e9:.2f} GB", flush=True
            )
    finally:
        for path in (ovi, out, eight):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
