"""MedMAP bundles: brain-tumour segmentation with missing MRI modalities, for MONAI."""

__version__ = "0.1.0"
