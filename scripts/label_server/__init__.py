"""The parts of serve_label.py: bundles and studies laid out as MONAI Label wants them, and the app that serves them."""
