"""Package the bundles for release: a zip for each, the index that MONAI's downloader reads, and checksums.

Examples:
    python scripts/package_bundles.py
    python scripts/package_bundles.py --weights_dir weights --only mmformer_pmix unet_base \
        --base_url https://github.com/OWNER/REPOSITORY/releases/download/v0.1.0

Writes ``<bundle>_v<version>.zip``, ``SHA256SUMS`` and, given ``--base_url``, ``models/model_info.json`` into
``--output_dir``. A zip has one folder: the bundle, its weights where there are any, the files of requirements, and a
copy of the package ``medmap_components``, so that the bundle runs where the package is not installed. The same input
gives the same bytes.

Weights that the repository ships in ``bundles/<bundle>/models`` go along; those have a ``docs/weights.md``. Other
weights of a bundle lie in ``<weights_dir>/<bundle>``: ``model.pt``, a bare state dict; ``model.json``, where training
wrote one beside it; ``weights.md``, what they are and how they score; and ``settings.json``, only where they need other
settings than the bundle's own, such as a narrower network:
``{"train": {"network_def#base_channels": 4}, "inference": {"network_def#base_channels": 4}}``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from build_bundles import REPOSITORY, as_json, package_version
from monai.bundle import ConfigParser
from tqdm import tqdm

from medmap_components.engines.weights import load_strictly

PACKAGE = "medmap_components"
PACKAGE_FILES = {".csv", ".md", ".npz", ".py", ".txt", ".typed"}
"""Endings of the package's files: a stray file beside them is not shipped."""
REQUIREMENTS = ("requirements.txt", "requirements.lock")
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip can hold: a fixed one, so that the bytes do not depend on the day."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles_dir", type=Path, default=REPOSITORY / "bundles", help="default: %(default)s")
    parser.add_argument("--output_dir", type=Path, default=REPOSITORY / "dist", help="default: %(default)s")
    parser.add_argument(
        "--weights_dir", type=Path, help="folder with one folder of weights for each bundle that has any"
    )
    parser.add_argument("--only", nargs="+", metavar="BUNDLE", help="names of the bundles to package (default: all)")
    parser.add_argument("--base_url", help="where the zips will lie; without it no models/model_info.json is written")
    return parser.parse_args(arguments)


def bundle_names(bundles_dir: Path, only: Sequence[str] | None = None) -> list[str]:
    """The bundles of a folder, all or those that are asked for.

    Raises:
        ValueError: if the folder has no bundle, or none of a name that is asked for.
    """
    there = sorted(path.parents[1].name for path in bundles_dir.glob("*/configs/metadata.json"))
    if not there:
        raise ValueError(f"--bundles_dir {bundles_dir} has no bundle; run scripts/build_bundles.py first.")
    unknown = sorted(set(only or ()) - set(there))
    if unknown:
        raise ValueError(f"--only names {unknown}, which {bundles_dir} does not have; it has {there}.")
    return [name for name in there if not only or name in only]


def bundle_content(bundle_dir: Path, weights_dir: Path | None = None) -> dict[str, bytes]:
    """All files of one bundle's zip.

    Args:
        bundle_dir: the bundle as it stands in the repository.
        weights_dir: the folder with this bundle's weights. Default: those that the repository ships, if any.

    Returns:
        Path inside the zip's folder to content.

    Raises:
        ValueError: if the bundle's version is not the package's, or its weights lack their description or do not fit.
    """
    version = json.loads((bundle_dir / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    if version != package_version():
        raise ValueError(
            f"{bundle_dir} is of version {version} and the package of {package_version()}; "
            "run scripts/build_bundles.py, so that both are of one."
        )
    own = [*_own_files(bundle_dir), *([] if weights_dir else _shipped_weights(bundle_dir))]
    content = {path.relative_to(bundle_dir).as_posix(): path.read_bytes() for path in own}
    package = REPOSITORY / PACKAGE
    content |= {
        f"{PACKAGE}/{path.relative_to(package).as_posix()}": path.read_bytes() for path in _package_files(package)
    }
    content |= {name: (REPOSITORY / name).read_bytes() for name in REQUIREMENTS}
    return content | (_weights(bundle_dir, weights_dir) if weights_dir else {})


def write_zip(path: Path, folder: str, content: Mapping[str, bytes]) -> None:
    """Writes a zip whose bytes depend on nothing but names and content.

    Files are sorted, dated alike, readable by all, and stored as they are: what a compressor makes of them depends on
    its version, and weights hardly shrink.

    Args:
        path: the zip.
        folder: the one folder that all files go into.
        content: path below it to content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(f"{folder}/{name}", EPOCH)
            entry.create_system = 3  # Unix, wherever it is made: the permissions count
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content[name])


def model_info(zips: Sequence[Path], base_url: str) -> dict[str, dict[str, str]]:
    """The index that ``monai.bundle download`` looks versions up in: its format, with the model zoo's SHA-1."""
    return {
        path.name.removesuffix(".zip"): {
            "checksum": hashlib.sha1(path.read_bytes()).hexdigest(),
            "source": f"{base_url.rstrip('/')}/{path.name}",
        }
        for path in zips
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Package what the command line asks for."""
    parsed = parse_arguments(arguments)
    zips: list[Path] = []
    bare: list[str] = []
    for name in tqdm(bundle_names(parsed.bundles_dir, parsed.only), desc="packaging"):
        weights = parsed.weights_dir / name if parsed.weights_dir else None
        content = bundle_content(parsed.bundles_dir / name, weights if weights and weights.is_dir() else None)
        if "models/model.pt" not in content:
            bare.append(name)
        zips.append(parsed.output_dir / f"{name}_v{package_version()}.zip")
        write_zip(zips[-1], name, content)
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in zips)
    (parsed.output_dir / "SHA256SUMS").write_text(sums, encoding="utf-8")
    if parsed.base_url:
        index = parsed.output_dir / "models" / "model_info.json"
        index.parent.mkdir(exist_ok=True)
        index.write_text(as_json(model_info(zips, parsed.base_url)), encoding="utf-8")
    else:
        print("No --base_url: models/model_info.json was not written.")
    done = f"{len(zips)} bundles of version {package_version()} in {parsed.output_dir}"
    print(f"{done}, {len(zips) - len(bare)} with weights")
    if bare:
        print(f"Without weights (MONAI Label and monai.bundle.load skip such a bundle): {', '.join(bare)}")


def _own_files(bundle_dir: Path) -> Iterator[Path]:
    """What a bundle has in the repository; weights and results that lie there on this machine are left out."""
    yield bundle_dir / "LICENSE"
    for folder in ("configs", "docs"):
        yield from (path for path in (bundle_dir / folder).iterdir() if path.is_file())


def _shipped_weights(bundle_dir: Path) -> Iterator[Path]:
    """The weights that the repository ships, which are told by their description."""
    if (bundle_dir / "docs" / "weights.md").is_file():
        yield from (bundle_dir / "models" / name for name in ("model.pt", "model.json"))


def _package_files(package: Path) -> Iterator[Path]:
    return (path for path in package.rglob("*") if path.is_file() and path.suffix in PACKAGE_FILES)


def _weights(bundle_dir: Path, weights_dir: Path) -> dict[str, bytes]:
    """The weights, their description, and the configs with the settings that they need."""
    model, description, settings_file = (weights_dir / name for name in ("model.pt", "weights.md", "settings.json"))
    for path, what in ((model, "weights"), (description, "what the weights are, and how they score")):
        if not path.is_file():
            raise ValueError(f"{path} is missing: {what}. Add it, or remove {weights_dir} for a zip without weights.")
    settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else {}
    content = {"models/model.pt": model.read_bytes(), "docs/weights.md": description.read_bytes()}
    about = model.with_suffix(".json")
    if about.is_file():
        content["models/model.json"] = about.read_bytes()
    for name, values in settings.items():
        content[f"configs/{name}.json"] = as_json(_changed(bundle_dir, name, values)).encode()
    parser = ConfigParser(
        _changed(bundle_dir, "inference", {**settings.get("inference", {}), "checkpoint": str(model)})
    )
    load_strictly(model, parser.get_parsed_content("network_def"))
    return content


def _changed(bundle_dir: Path, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A config of the bundle with other values."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle_dir / "configs" / f"{name}.json"))
    for key, value in values.items():
        parser[key] = value
    return dict(parser.get())


if __name__ == "__main__":
    main()
