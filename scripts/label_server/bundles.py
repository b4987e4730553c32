"""Putting bundles, with their weights, where a MONAI Label app finds them."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medmap_components.engines import read_weights, set_aside
from medmap_components.engines.about_weights import copy_description

__all__ = ["BUNDLES", "place_bundle"]

logger = logging.getLogger(__name__)

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
CONFIGS = ("train", "inference")
NOT_PLACED = ("output", "__pycache__")
TIMEOUT_S = 60


def place_bundle(
    source: str,
    model_dir: Path,
    weights: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Copies a bundle into the model folder of an app.

    A bundle that is there already stays as it is, since it may hold weights that were fine-tuned there.

    Args:
        source: the name of one of this project's bundles, the folder of any bundle, or a released zip
            ``<name>_v<version>.zip`` as a file or URL.
        model_dir: where the bundle's folder goes.
        weights: a bare state dict. None (the default): the bundle's ``output/model.pt``, where training leaves it, or
            ``models/model.pt``, which came with it.
        settings: what to change in the configs, such as ``{"spacing_mm": 3}`` or ``{"network_def#base_channels": 4}``.
        replace: take the place of a bundle that is there, which is renamed. Default False.

    Returns:
        The bundle's folder below ``model_dir``.

    Raises:
        FileNotFoundError: if there is no such bundle, or no weights for it.
        ValueError: for a zip that is not a released bundle or whose checksum is another; for a setting that the bundle
            does not have; for weights or settings given for a bundle that is there already.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = _fetch(source, Path(scratch))
        placed = model_dir / folder.name
        if placed.exists() and not replace:
            if weights or settings or _version(placed) != _version(folder):
                raise ValueError(
                    f"{placed} is there already, in version {_version(placed)}, and may hold weights that were "
                    f"fine-tuned; to serve {source} with other weights, settings or in another version, add --replace, "
                    "which keeps the folder under another name."
                )
            logger.info("%s is served as it lies in %s", folder.name, placed)
            return placed
        chosen = weights or _own_weights(folder)
        read_weights(chosen, "weights")
        partial = model_dir / f".{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(*NOT_PLACED))
        (partial / "models").mkdir(exist_ok=True)
        served = partial / "models" / "model.pt"
        shutil.copyfile(chosen, served)
        copy_description(chosen, served)
        _change_settings(partial, folder.name, settings or {})
        if placed.exists():
            # out of the model folder, where all that there is would be served
            (model_dir.parent / "replaced").mkdir(exist_ok=True)
            aside = placed.rename(model_dir.parent / "replaced" / placed.name)
            set_aside(aside)
        partial.rename(placed)
    return placed


def _fetch(source: str, scratch: Path) -> Path:
    """The folder of a bundle, unpacked where it has to be."""
    if source.startswith(("http://", "https://")):
        file = scratch / Path(source).name
        _download(source, file)
        return _unpack(file, scratch)
    for folder in (BUNDLES / source, Path(source)):
        if (folder / "configs" / "metadata.json").is_file():
            return folder.resolve()
    if Path(source).is_file():
        return _unpack(Path(source), scratch)
    names = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/metadata.json"))
    raise FileNotFoundError(
        f"there is no bundle {source!r}; give one of {names}, the folder of a bundle, or a released zip (file or URL)."
    )


def _download(url: str, file: Path) -> None:
    """Fetches a zip and compares it with the ``SHA256SUMS`` beside it."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, file.open("wb") as output:
            shutil.copyfileobj(response, output)
    except OSError as error:
        raise FileNotFoundError(f"{url} could not be downloaded ({error}); check the address.") from error
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    sums = url.rpartition("/")[0] + "/SHA256SUMS"
    try:
        with urllib.request.urlopen(sums, timeout=TIMEOUT_S) as response:
            lines = response.read().decode().splitlines()
    except OSError as error:
        logger.warning("%s could not be read (%s): the sha256 %s of %s is not checked.", sums, error, digest, file.name)
        return
    listed = {name.lstrip("*"): value for value, _, name in (line.replace("  ", " ").partition(" ") for line in lines)}
    if listed.get(file.name) != digest:
        raise ValueError(
            f"{url} has the sha256 {digest}, but {sums} says {listed.get(file.name, 'nothing of it')}; the file is "
            "damaged or another one: do not use it."
        )


def _unpack(file: Path, scratch: Path) -> Path:
    """Unpacks a released zip, which holds one folder with a bundle."""
    target = scratch / "unpacked"
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(target)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is no zip ({error}); give a released bundle, <name>_v<version>.zip.") from error
    folders = sorted(target.iterdir())
    if len(folders) != 1 or not (folders[0] / "configs" / "metadata.json").is_file():
        raise ValueError(
            f"{file} is no released bundle: expected one folder with configs/metadata.json, found "
            f"{[folder.name for folder in folders]}."
        )
    return folders[0]


def _own_weights(folder: Path) -> Path:
    candidates = (folder / "output" / "model.pt", folder / "models" / "model.pt")
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder.name} has no weights: neither {candidates[0]} nor {candidates[1]} is there. Train the bundle, or "
        "give --weights FILE; MONAI Label cannot serve a bundle without weights."
    )


def _version(folder: Path) -> str:
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return str(metadata.get("version", ""))


def _change_settings(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Writes settings into those configs of a bundle that have them."""
    unknown = set(settings)
    for config in CONFIGS if settings else ():
        path = folder / "configs" / f"{config}.json"
        if not path.is_file():
            continue
        parser = ConfigParser()
        parser.read_config(str(path))
        known = {key: value for key, value in settings.items() if key.split("#")[0] in parser.config}
        parser.update(known)
        parser.config.pop("_meta_")  # MONAI's own, empty
        ConfigParser.export_config_file(parser.config, str(path), indent=4)
        unknown -= known.keys()
    if unknown:
        raise ValueError(f"{name} has no setting {sorted(unknown)}; the settings stand at the top of its configs.")
