"""CPU seconds and memory of the products of a forecast file: python benchmarks/products.py FORECAST.nc."""

import resource
import sys
import tempfile
import time
from pathlib import Path

import nowcast.plotting  # noqa: F401 (its import is none of the costs)
from nowcast.products.write import Products, write_products

NONE = {"picture": False, "loop": None}
WHAT = {
    "all but GeoTIFF, the first time": Products(),
    "NetCDF": Products(**NONE),
    "panel and loop": Products(kinds=()),
    "NetCDF and GeoTIFF": Products(**NONE, geotiff=True),
    "Zarr": Products(**NONE, formats=("zarr",)),
}


def main(forecast: Path) -> None:
    """Make each kind of product once, into a folder that is removed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, products in WHAT.items():
        with tempfile.TemporaryDirectory() as folder:
            start, cpu = time.perf_counter(), time.process_time()
            write_products(forecast, Path(folder), products, stem="f")
            wall, used = time.perf_counter() - start, time.process_time() - cpu
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{name:<34} {used:6.2f} s of CPU {wall:6.2f} s   peak so far {grown:5.0f} MiB over the imports"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
