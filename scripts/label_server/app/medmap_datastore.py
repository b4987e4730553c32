"""MONAI Label's datastore of one folder, made safe for links to files that belong to somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

__all__ = ["StudyDatastore"]


class StudyDatastore(LocalDatastore):
    """A LocalDatastore of links to studies.

    LocalDatastore follows links also where it removes or overwrites an image, and would delete or change the study
    itself.
    """

    def remove_image(self, image_id: str) -> None:
        """Removes a study from the list, and its labels. A file behind a link stays."""
        link = self._link(image_id)
        if link is None:
            super().remove_image(image_id)
            return
        for tag in list(self._datastore.objects[image_id].labels):
            self.remove_label(image_id, tag)
        link.unlink()
        self.refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Adds an uploaded image.

        Raises:
            HTTPException: 409, if a study with that name is there.
        """
        if self._link(image_id) is not None:
            raise HTTPException(409, f"The study {image_id!r} is there already; upload it under another name.")
        return str(super().add_image(image_id, image_filename, image_info))

    def _link(self, image_id: str) -> Path | None:
        """The link that stands for a study, if it is one."""
        known = self._datastore.objects.get(image_id)
        if known is None:
            return None
        path = Path(self._datastore.image_path(), self._filename(image_id, known.image.ext))
        return path if path.is_symlink() else None
